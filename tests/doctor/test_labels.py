"""Labels against predictions: those that were made wrong come first, of all four kinds."""

import numpy as np
import pytest

pytest.importorskip("cleanlab")

from mnv2_tasks.doctor.labels import doubts_of_boxes, doubts_of_labels, doubts_of_masks, doubts_of_presence
from mnv2_tasks.doctor.looking import OBJECT

NAMES = ["a", "b", "c"]


def test_classes() -> None:
    true = np.random.default_rng(0).integers(0, 3, 60)
    given = true.copy()
    given[:3] = (given[:3] + 1) % 3
    given[3] = -1  # unknown: no doubt
    doubts = doubts_of_labels(given, np.eye(3)[true] * 0.8 + 0.2 / 3, NAMES)
    assert {doubt.row for doubt in doubts[:3]} == {0, 1, 2} and len(doubts) == 59
    assert [doubt.likely for doubt in doubts] == [True] * 3 + [False] * 56
    assert all(doubt.suggested == NAMES[true[doubt.row]] and doubt.given != doubt.suggested for doubt in doubts[:3])


def test_presence() -> None:
    true = np.random.default_rng(0).random((60, 3)) > 0.5
    given = true.astype(np.int8)
    given[:3] = 1 - given[:3]
    given[4] = -1
    doubts = doubts_of_presence(given, true * 0.8 + 0.1, NAMES)
    assert {doubt.row for doubt in doubts if doubt.likely} == {doubt.row for doubt in doubts[:3]} == {0, 1, 2}


def test_boxes_that_are_moved_lacking_or_of_another_class() -> None:
    objects, found = [], {"of": [], "boxes": [], "labels": [], "scores": []}
    for row in range(30):
        here = np.zeros(2, OBJECT)
        here["label"], here["box"] = [0, 1], [[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.9]]
        for box, label in zip(here["box"], here["label"], strict=True):
            for key, value in zip(found, (row, box * 100, label, 0.9), strict=True):
                found[key].append(value)
        if row == 0:
            here["box"][0] = [0.3, 0.1, 0.6, 0.5]
        if row == 1:
            here = here[:1]
        if row == 2:
            here["label"][0] = 1
        objects.append(here)
    columns = {key: np.array(values) for key, values in found.items()}
    doubts = doubts_of_boxes(objects, np.full((30, 2), 100), columns, NAMES[:2])
    assert {doubt.row for doubt in doubts[:3]} == {0, 1, 2} and doubts[0].likely
    assert next(doubt for doubt in doubts if doubt.row == 1).suggested == "a b"


def test_masks() -> None:
    true = np.random.default_rng(0).integers(0, 2, (20, 64, 64)).astype(np.uint8)
    shares = np.stack([np.where(true == k, 240, 15) for k in range(2)], 1).astype(np.uint8)
    given = true.copy()
    given[0] = 1 - given[0]
    given[1, :9] = 255  # unknown: no doubt
    doubts = doubts_of_masks(given, shares, NAMES[:2])
    assert doubts[0].row == 0 and [doubt.likely for doubt in doubts[:2]] == [True, False]
