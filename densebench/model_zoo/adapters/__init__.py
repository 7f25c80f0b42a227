"""Adapters, one per family of encoders."""
