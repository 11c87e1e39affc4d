"""Finds groups of duplicate images in a collection, and shows them on pages."""
