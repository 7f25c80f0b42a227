"""Fully unsupervised segmentation."""
