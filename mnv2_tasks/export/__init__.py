"""Trained models for other runtimes: what is written, and proof that it is the same."""
