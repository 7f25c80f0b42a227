"""What several protocols share: the memory of patches, k-means, heads, scores, sweeps."""
