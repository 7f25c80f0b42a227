"""The one feature pass: what is asked of an encoder, its cache on disk, and the stream that all protocols read."""
