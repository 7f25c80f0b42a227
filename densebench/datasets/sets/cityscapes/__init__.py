"""Cityscapes, and ACDC in its classes."""
