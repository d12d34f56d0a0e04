"""What a face shows: identity, affect, age and sex, head pose."""
