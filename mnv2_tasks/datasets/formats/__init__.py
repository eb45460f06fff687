"""A file a format, and beside it how its files lie and read."""
