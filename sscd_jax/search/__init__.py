"""Nearest neighbors of descriptors, and what their scores are worth."""
