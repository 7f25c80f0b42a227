"""Linear segmentation."""
