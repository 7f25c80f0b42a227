"""The drawing kit: pictures as PNG bytes."""
