"""Records of measurements and the folder they are kept in."""
