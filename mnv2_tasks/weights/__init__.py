"""Weights in and out: files, layouts of others, checkpoints, and whom to trust."""
