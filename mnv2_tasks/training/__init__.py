"""Training with Lightning: the module, what is logged, and what a run leaves."""
