"""Experiments: studies, and the paper's numbers and figures beside ours."""
