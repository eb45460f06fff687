"""Trained models on people's pictures and films."""
