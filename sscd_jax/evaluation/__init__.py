"""Measures how well copies are found: metrics, confidence intervals, comparisons and reports."""
