"""Data: from files in any format to batches."""
