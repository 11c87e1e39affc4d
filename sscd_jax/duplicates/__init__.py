"""Finds groups of duplicate images, and moves or links the files that are not kept."""
