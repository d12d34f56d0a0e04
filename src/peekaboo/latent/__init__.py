"""Latent codes: inversion, tuning, scorers and traversal."""
