"""In-context segmentation."""
