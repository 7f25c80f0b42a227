"""Depth by linear heads."""
