"""Runs as processes of their own, on this machine or a cluster: what a study and a search start them with."""
