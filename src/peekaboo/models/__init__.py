"""The registry of weights and their safe loading."""
