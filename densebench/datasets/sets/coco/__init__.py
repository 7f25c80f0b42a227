"""COCO: images, panoptic and stuff masks, instances."""
