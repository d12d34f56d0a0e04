"""Peekaboo: research videos of infants, anonymised with pose and emotion kept."""

__version__ = "0.1.0"
