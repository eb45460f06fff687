"""A study: one setting varied over seeds, as runs of their own, then a table and plots."""
