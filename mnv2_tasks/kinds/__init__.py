"""Kinds of annotation: what data, heads, pictures, predictions and exported files agree on, a file a kind."""

from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.kinds.calibration import Calibration
from mnv2_tasks.kinds.classification_kind import CLASSIFICATION
from mnv2_tasks.kinds.detection_kind import DETECTION, Decoding
from mnv2_tasks.kinds.kind import Kind, Prediction, Sample, Targets
from mnv2_tasks.kinds.multilabel_kind import MULTILABEL
from mnv2_tasks.kinds.segmentation_kind import SEGMENTATION

__all__ = [
    "Calibration",
    "CLASSIFICATION",
    "DETECTION",
    "Decoding",
    "KINDS",
    "Kind",
    "MULTILABEL",
    "Prediction",
    "SEGMENTATION",
    "Sample",
    "Targets",
    "kind_named",
]

KINDS = {kind.name: kind for kind in (CLASSIFICATION, MULTILABEL, DETECTION, SEGMENTATION)}  # as files name them


def kind_named(name: object) -> Kind:
    """The kind of that name. Raises InputError, without a fix, where there is none."""
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(f"{quote(name)} is no kind of annotation, of {', '.join(KINDS)}")
    return kind
