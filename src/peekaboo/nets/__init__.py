"""Torch modules alone: no file access, no printing, official state_dict layouts."""
