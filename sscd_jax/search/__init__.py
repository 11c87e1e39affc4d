"""Finds nearest neighbors of descriptors, and normalizes and calibrates their scores."""
