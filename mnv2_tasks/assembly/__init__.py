"""Settings into objects: the one room that knows Hydra."""
