"""Settings of protocols, a file each, and of what several share: none imports torch, so that a typo costs no time."""
