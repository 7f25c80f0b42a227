"""Data of the user's own: a TOML file, a class, a folder of images, a part of a dataset."""
