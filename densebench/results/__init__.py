"""Records of measurements, the folder they are kept in, and a frame of them."""
