"""Keypoint correspondence."""
