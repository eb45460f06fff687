"""Folds: every image is val once, classes are shared out, groups stay together, and what a run predicts is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.folds import Folds, assign, cut, together
from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.merged import Merged
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.doctor.labels import read_predictions
from mnv2_tasks.kinds import CLASSIFICATION, DETECTION
from mnv2_tasks.lab.study.plan import plan
from mnv2_tasks.lab.study.summary import markdown

COUNT = 20


def photos(root: Path) -> Path:
    """20 images of two classes, side by side with COCO boxes and outlines: 5 of each class from one of four cameras."""
    images, annotations = [], []
    for i in range(COUNT):
        label = i % 2
        path = root / "images" / ("cat", "dog")[label] / f"cam{i % 4}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(noise // 2 + 100 * np.uint8(label)).save(path)
        images.append({"id": i, "file_name": f"{path.parent.name}/{path.name}", "width": 48, "height": 40})
        outline = [[5, 5, 25, 5, 25, 30 - i, 5, 30 - i]]
        annotations.append(
            {"id": i, "image_id": i, "category_id": label, "bbox": [5, 5, 20, 25 - i], "segmentation": outline}
        )
    names = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_classes_are_shared_out_and_groups_stay_together() -> None:
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [60, 30, 10])
    shown = label[:, None] == np.arange(3)
    folds = assign(shown, [str(i) for i in range(100)], 5)
    assert [[int((label[folds == k] == c).sum()) for c in range(3)] for k in range(5)] == [[12, 6, 2]] * 5
    order = generator.permutation(100)  # the order of the images changes nothing
    assert (assign(shown[order], [str(i) for i in order], 5) == folds[order]).all()
    groups = [f"g{i // 4}" for i in range(100)]
    folds = assign(shown, groups, 5)
    assert all(len(set(folds[4 * g : 4 * g + 4].tolist())) == 1 for g in range(25))
    assert np.bincount(folds).tolist() == [20] * 5


def test_every_image_of_any_format_is_val_once(tmp_path: Path) -> None:
    root = photos(tmp_path)
    folders = ImageFolder(root / "images")
    boxes = Coco(root, annotations="labels.json", images="images")
    for source in (folders, boxes, Merged({"folders": folders, "boxes": boxes})):
        whole = together("x", source.split("train"), source.split("val"))
        before = {str(whole.path(i).resolve()): whole[i] for i in range(COUNT)}
        seen = []
        for number in range(4):
            train, val, rows = cut("x", whole, Folds(4, number))
            assert len(train) + len(val) == len(before) == COUNT
            for i, row in enumerate(rows.tolist()):
                assert val.path(i) == whole.path(row)
                sample, old = val[i], before[str(val.path(i).resolve())]
                for field in {"label", "boxes", "labels", "mask"} & set(old):
                    assert (sample[field] == old[field]).all(), field
            seen += rows.tolist()
        assert sorted(seen) == list(range(COUNT))


def test_the_datamodule_takes_a_fold_and_leaves_test_alone(tmp_path: Path) -> None:
    source = ImageFolder(photos(tmp_path) / "images")
    settings = {"sizes": 32, "folds": Folds(4, 1, groups="^(.*?)_")}
    data = DataModule({"pets": source}, {"classifier": CLASSIFICATION}, **settings)
    val = data.split("pets", "val")
    assert len({val.path(i).name[:4] for i in range(len(val))}) == 1 and len(val) == 5  # one camera
    assert data.split("pets", "test") is None and len(data.split("pets", "train")) == 15
    settings = {"sizes": 32, "folds": Folds(4)}
    data = DataModule({"scenes": Scenes(32, train=8, val=4)}, {"ssdlite": DETECTION}, **settings)
    refused(lambda: data.split("scenes", "val"), "data=scenes", "has no folds")
    refused(lambda: Folds(1), "folds.count=1", "at least 2")
    refused(lambda: Folds(3, 3), "folds.number=3", "0 to 2")
    refused(lambda: Folds(3, 0, "("), "folds.groups", "no pattern")
    refused(lambda: Folds(3, 0, "a"), "folds.groups", "brackets")
    refused(lambda: cut("pets", together("pets", source.split("train"), None), Folds(2, 0, "(x)")), "finds nothing")


def test_a_study_has_a_run_a_fold(tmp_path: Path) -> None:
    runs = plan({"vary": {}, "seeds": [0], "folds": 3}, tmp_path, tasks=["ssdlite"])
    assert [(one.variant, one.fold, one.folder.name) for one in runs] == [
        ("ssdlite", k, f"ssdlite_0_fold_{k}") for k in range(3)
    ]
    both = plan({"vary": {"size": [96, 128]}, "seeds": [0, 1], "folds": 2}, tmp_path, tasks=["ssdlite"])
    assert len(both) == 8 and len({one.folder for one in both}) == 8 and {one.repeat for one in both} == {0, 1, 2, 3}
    refused(lambda: plan({"vary": {}, "seeds": [0], "folds": 1}, tmp_path, tasks=["x"]), "study.folds=1")
    variant = {"name": "x", "values": {0: 0.5, 1: 0.7}, "mean": 0.6, "std": 0.14, "difference": None}
    costs = {"parameters": 1, "madds": 1, "latency_ms": 1.0, "cost_ratio": 1.0}
    told = {"study": "folds", "tasks": ["x"], "metric": "val x/top1", "baseline": "x", "equal_cost": True}
    assert "over 2 folds" in markdown({**told, "repeats": "folds", "variants": [{**variant, **costs}]})


@pytest.mark.slow
def test_what_a_fold_predicts_is_kept_and_judges_labels(cli, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    root = photos(tmp_path)
    data = [
        "data=imagefolder",
        f"data.root={root / 'images'}",
        "task=classifier",
        "size=32",
        f"runs={tmp_path / 'runs'}",
    ]
    quick = ["backbone.width=0.35", "trainer.max_epochs=1", "loader.batch_size=4", "loader.workers=0", "examples=0"]
    cli("train", *data, *quick, "folds.count=4", "folds.number=1", "name=one")
    run = tmp_path / "runs" / "classifier" / "one"
    kept = read_predictions(run, "classifier")
    assert kept["scores"].shape == (5, 2) and len(set(kept["rows"].tolist())) == 5
    said = cli("doctor", *data, f"predictions={run}", "name=two")[1]
    table = (tmp_path / "runs" / "doctor" / "two" / "corrected_labels.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "file,given,suggested,score,likely_wrong" and len(table) == 6
    assert "mnv2 train data=imagefolder" in said and "predictions" not in said
    message = cli("doctor", *data, f"predictions={tmp_path}", "name=three", fails=True)[1]
    assert "no out-of-fold predictions of classifier" in message
