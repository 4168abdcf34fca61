"""Ranks and the measured way between them."""
