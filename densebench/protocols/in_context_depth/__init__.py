"""In-context depth."""
