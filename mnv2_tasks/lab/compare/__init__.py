"""A comparison of finished runs: found, brought into rows, told apart, and written as tables and a page."""
