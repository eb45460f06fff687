"""Hurt files, seeded: each is read, or refused in one line that names it. `benchmarks/fuzz.py` tries many more."""

import sys
import warnings

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import fuzz

GROUPS = {
    "annotations": (fuzz.annotations, 600),
    "yolo": (fuzz.yolo, 150),
    "tables": (fuzz.tables, 250),
    "pictures": (fuzz.pictures, 300),
}


@pytest.mark.parametrize("group", GROUPS)
def test_hurt_files_are_read_or_refused(tmp_path, group):
    make, count = GROUPS[group]
    raw = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of pictures that are hurt but can be read
        for form in make(tmp_path):
            original = form.file.read_bytes()
            form.read()
            outcomes = [fuzz.judge(form, fuzz.hurt(form, original, str(i))) for i in range(count)]
            raw += [(form.name, i, one.detail) for i, one in enumerate(outcomes) if one.result == "raw"]
            form.file.write_bytes(original)
    assert raw == []
