"""Overclustering."""
