"""Computes descriptors of images, writes them to folders, and exports them for other tools."""
