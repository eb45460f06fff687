"""Pictures and plots for people."""
