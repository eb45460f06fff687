"""What the outputs of an exported graph say: predictions like a head's own."""

from collections.abc import Mapping

import numpy as np

from mnv2_tasks.export.nms import suppress
from mnv2_tasks.kinds import Decoding, Kind, Prediction

Arrays = Mapping[str, np.ndarray]  # output name -> values


def of_task(task: str, arrays: Arrays) -> Arrays:
    """A graph's outputs for one task, by the names that its kind has for them."""
    start = f"{task}_"
    return {name.removeprefix(start): values for name, values in arrays.items() if name.startswith(start)}


def predictions(task: str, kind: Kind, arrays: Arrays, decoding: Decoding | None) -> list[Prediction]:
    """One prediction an image, as a head's `predict` gives them, in pixels of the graph's input.

    decoding: of a detector whose graph leaves suppression to us.
    """
    return kind.predictions(of_task(task, arrays), decoding, suppress)
