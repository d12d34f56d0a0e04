"""Synthetic infants: head model, renderer, clips, and training of the embedded models."""
