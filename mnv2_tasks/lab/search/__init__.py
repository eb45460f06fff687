"""A search: settings drawn from a space by Optuna, as runs of their own, the bad ones ended early."""
