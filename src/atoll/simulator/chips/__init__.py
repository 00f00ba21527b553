"""A world of chips that fail and come back, and the ways of training on them, side by side."""
