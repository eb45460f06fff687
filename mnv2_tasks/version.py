"""The version of this package, which checkpoints and exported files tell."""

__version__ = "0.1.0"
