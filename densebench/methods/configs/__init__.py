"""Settings of methods, a file each: none imports torch, so that a typo costs no time."""
