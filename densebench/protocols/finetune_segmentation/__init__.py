"""End-to-end fine-tuning."""
