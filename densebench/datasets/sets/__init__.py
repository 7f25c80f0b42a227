"""Published datasets, one file or folder each; none imports another."""
