"""Finding faces: detection, landmarks, tracks and aligned crops."""
