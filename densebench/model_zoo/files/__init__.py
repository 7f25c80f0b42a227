"""Files of weights: found, fetched, read, unwrapped, described by cards."""
