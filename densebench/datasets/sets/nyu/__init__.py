"""NYU Depth v2, in its four layouts."""
