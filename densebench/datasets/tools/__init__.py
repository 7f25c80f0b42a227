"""What is done with a dataset: looked at, fetched, exported, drawn, described."""
