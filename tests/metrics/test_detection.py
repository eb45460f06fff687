"""CocoMAP against pycocotools, on the data that evaluations really meet and on several processes."""

import contextlib
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import destroy_process_group, init_process_group

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics.detection import STATS, CocoMAP, evaluate

Batch = tuple[list[dict[str, torch.Tensor]], list[dict[str, Any]]]
MORE = ("mar_small", "mar_medium", "mar_large")  # pycocotools' last three, which CocoMAP leaves out


def random_images(*, images: int, classes: int, seed: int, absent: tuple[int, ...] = ()) -> Batch:
    """Objects of every size, some of them crowds, and predictions near them; some images have neither."""
    random = np.random.default_rng(seed)
    predictions, targets = [], []
    for image in range(images):
        count, found = (int(random.integers(0, 12)) * int(random.random() < 0.8) for _ in range(2))
        corner = random.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(8, 160, (count, 2))], axis=1)
        labels = random.choice([k for k in range(classes) if k not in absent], count)
        size = boxes[:, 2:] - boxes[:, :2]
        targets.append(
            {
                "image_id": 3 * image,
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "crowd": torch.tensor(random.random(count) < 0.15),
                "area": torch.tensor(size.prod(1) * random.uniform(0.5, 1, count), dtype=torch.float32),
            }
        )
        near = random.integers(0, count, found) if count else np.zeros(0, int)
        moved = boxes[near] + random.normal(0, 1, (len(near), 4)) * random.choice([0, 2, 15], (len(near), 1))
        wrong = random.random(len(near)) < 0.3
        predictions.append(
            {
                "boxes": torch.tensor(moved, dtype=torch.float32).reshape(-1, 4),
                # Few distinct scores, so that ties are met.
                "scores": torch.tensor(random.integers(1, 30, len(near)) / 30, dtype=torch.float32),
                "labels": torch.tensor(
                    np.where(wrong, random.integers(0, classes, len(near)), labels[near]), dtype=torch.int64
                ),
            }
        )
    return predictions, targets


def pycocotools_stats(predictions: list[dict], targets: list[dict], *, classes: int) -> dict[str, float]:
    """What pycocotools says, by the names that CocoMAP uses; -1 as nan."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths: list[dict] = []
    found: list[dict] = []
    for prediction, target in zip(predictions, targets, strict=True):
        for table, source, kind in ((truths, target, "area"), (found, prediction, "score")):
            boxes = source["boxes"].double()
            boxes[:, 2:] -= boxes[:, :2]
            for i, box in enumerate(boxes.tolist()):
                area = float(target["area"][i]) if kind == "area" else box[2] * box[3]
                table.append(
                    {
                        "id": len(table) + 1,
                        "image_id": target["image_id"],
                        "category_id": int(source["labels"][i]) + 1,
                        "bbox": box,
                        "area": area,
                        "iscrowd": int(target["crowd"][i]) if kind == "area" else 0,
                        "score": float(prediction["scores"][i]) if kind == "score" else 0,
                    }
                )
    with contextlib.redirect_stdout(io.StringIO()):
        pair = []
        for table in (truths, found):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": target["image_id"]} for target in targets],
                "categories": [{"id": k + 1} for k in range(classes)],
                "annotations": table,
            }
            coco.createIndex()
            pair.append(coco)
        evaluator = COCOeval(*pair, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    result = dict(zip(STATS + MORE, evaluator.stats.tolist(), strict=True))
    for k in range(classes):
        precision = evaluator.eval["precision"][:, :, k, 0, -1]
        result[f"map/{k}"] = float(precision[precision > -1].mean()) if (precision > -1).any() else -1.0
    return {name: float("nan") if value == -1 else value for name, value in result.items()}


def names(classes: int) -> tuple[str, ...]:
    return tuple(str(k) for k in range(classes))


def updated(predictions: list[dict], targets: list[dict], *, classes: int, batch: int = 7) -> CocoMAP:
    metric = CocoMAP(names(classes))
    for start in range(0, len(targets), batch):
        metric.update(predictions[start : start + batch], targets[start : start + batch])
    return metric


def assert_equal(result: dict[str, torch.Tensor], expected: dict[str, float]) -> None:
    assert set(result) == set(expected) - set(MORE)
    for name, value in result.items():
        assert value.dtype == torch.float32 and value.ndim == 0
        assert float(value) == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    classes = 1 + 3 * seed
    images = random_images(images=40, classes=classes, seed=seed, absent=(2, 5)[: seed // 2])
    expected = pycocotools_stats(*images, classes=classes)
    assert expected["map"] > 0.1
    metric = updated(*images, classes=classes)
    assert_equal(metric.compute(), expected)
    assert capsys.readouterr().out == ""
    # The three that are not reported come from the same evaluation.
    truths, found, *_ = metric.computed()
    stats = evaluate(truths, found, classes=classes).stats
    assert stats[9:].tolist() == pytest.approx([expected[name] for name in MORE], abs=1e-6)
    # The curve's mean is the class's AP at IoU 0.5, and a class is absent from both or from none.
    assert metric.curves().shape == (101, classes)
    assert np.nanmean(metric.curves()) == pytest.approx(expected["map_50"], abs=1e-6)
    absent = [np.isnan(expected[f"map/{k}"]) for k in range(classes)]
    assert np.isnan(metric.curves()).all(0).tolist() == absent


def test_more_than_100_predictions_an_image() -> None:
    predictions, targets = random_images(images=5, classes=2, seed=1)
    for prediction in predictions:
        prediction["boxes"] = torch.cat([prediction["boxes"], torch.rand(150, 4).cumsum(1) * 50])
        prediction["scores"] = torch.cat([prediction["scores"], torch.rand(150)])
        prediction["labels"] = torch.cat([prediction["labels"], torch.zeros(150, dtype=torch.int64)])
    expected = pycocotools_stats(predictions, targets, classes=2)
    assert_equal(updated(predictions, targets, classes=2).compute(), expected)


@pytest.mark.parametrize("case", ["no predictions", "no objects", "only crowds", "neither"])
def test_nothing_there(case: str) -> None:
    predictions, targets = random_images(images=10, classes=3, seed=0)
    if case in ("no predictions", "neither"):
        predictions = [{name: value[:0] for name, value in p.items()} for p in predictions]
    if case in ("no objects", "neither"):
        targets = [{name: v if name == "image_id" else v[:0] for name, v in t.items()} for t in targets]
    if case == "only crowds":
        targets = [{**t, "crowd": torch.ones_like(t["crowd"])} for t in targets]
    metric = updated(predictions, targets, classes=3)
    result = metric.compute()
    assert_equal(result, pycocotools_stats(predictions, targets, classes=3))
    assert float(result["map"]) == 0 if case == "no predictions" else np.isnan(float(result["map"]))
    assert len(metric.results()) == sum(len(p["scores"]) for p in predictions)
    assert metric.confusion(score=0.0)[:3, :3].sum() == 0


def test_no_images_at_all() -> None:
    metric = CocoMAP(("a", "b"))
    metric.update([], [])
    assert all(value.isnan() for value in metric.compute().values())
    assert metric.confusion().tolist() == np.zeros((3, 3)).tolist()
    assert metric.results() == [] and metric.curves().shape == (101, 2)


def test_an_image_seen_twice_counts_once() -> None:
    predictions, targets = random_images(images=20, classes=4, seed=3)
    expected = pycocotools_stats(predictions, targets, classes=4)
    metric = updated(predictions + predictions[:5], targets + targets[:5], classes=4)
    assert_equal(metric.compute(), expected)
    assert len(metric.results()) == sum(len(p["scores"]) for p in predictions)


def test_compute_may_be_followed_by_more_images_and_reset() -> None:
    predictions, targets = random_images(images=20, classes=4, seed=4)
    metric = updated(predictions[:10], targets[:10], classes=4)
    metric.compute()
    metric.update(predictions[10:], targets[10:])
    assert_equal(metric.compute(), pycocotools_stats(predictions, targets, classes=4))
    metric.reset()
    with pytest.raises(RuntimeError, match="compute"):
        metric.curves()
    metric.update(predictions[:10], targets[:10])
    assert_equal(metric.compute(), pycocotools_stats(predictions[:10], targets[:10], classes=4))


def test_state_keeps_its_place_and_type_when_the_model_changes_its_own() -> None:
    images = random_images(images=10, classes=3, seed=5)
    metric = updated(*images, classes=3).to(torch.bfloat16)
    assert_equal(metric.compute(), pycocotools_stats(*images, classes=3))


def test_results_give_pycocotools_the_same_numbers(tmp_path: Path) -> None:
    predictions, targets = random_images(images=20, classes=4, seed=6)
    metric = updated(predictions, targets, classes=4)
    metric.compute()
    (tmp_path / "predictions.json").write_text(json.dumps(metric.results()))
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    again: list[dict] = []
    for target in targets:
        mine = [r for r in results if r["image_id"] == target["image_id"]]
        boxes = torch.tensor([r["bbox"] for r in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([r["category_id"] - 1 for r in mine], dtype=torch.int64)
        scores = torch.tensor([r["score"] for r in mine], dtype=torch.float64)
        again.append({"boxes": boxes, "scores": scores, "labels": labels})
    expected = pycocotools_stats(predictions, targets, classes=4)
    assert pycocotools_stats(again, targets, classes=4) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def one_image(truths: list[tuple], found: list[tuple]) -> CocoMAP:
    """truths: (x1, y1, x2, y2, label, crowd); found: (x1, y1, x2, y2, label, score)."""
    truth, box = torch.tensor(truths).reshape(-1, 6).float(), torch.tensor(found).reshape(-1, 6).float()
    target = {"image_id": 0, "boxes": truth[:, :4], "labels": truth[:, 4].long(), "crowd": truth[:, 5] > 0}
    target["area"] = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
    metric = CocoMAP(("a", "b"))
    metric.update([{"boxes": box[:, :4], "labels": box[:, 4].long(), "scores": box[:, 5]}], [target])
    metric.compute()
    return metric


A, B = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


@pytest.mark.parametrize(
    ("truths", "found", "expected"),
    [
        ([(*A, 0, 0), (*B, 1, 0)], [(*A, 0, 0.9), (*B, 1, 0.9)], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        # the class does not matter for the match
        ([(*A, 0, 0)], [(*A, 1, 0.9)], [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        # missed, and a false alarm
        ([(*A, 0, 0)], [(*B, 1, 0.9)], [[0, 0, 1], [0, 0, 0], [0, 1, 0]]),
        # the higher score goes first, whatever the order; the second finds nothing left
        ([(*A, 0, 0)], [(*A, 0, 0.6), (*A, 1, 0.9)], [[0, 1, 0], [0, 0, 0], [1, 0, 0]]),
        # a score below the threshold is no prediction; one at it is
        ([(*A, 0, 0)], [(*A, 0, 0.49)], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        ([(*A, 0, 0)], [(*A, 0, 0.5)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        # the best overlap wins, not the first; then the rest
        (
            [(0, 0, 10, 14, 0, 0), (*A, 1, 0)],
            [(*A, 1, 0.9), (0, 0, 10, 13, 0, 0.8)],
            [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
        ),
        # an overlap of exactly one half is enough, a little less is not
        ([(*A, 0, 0)], [(0, 0, 10, 5, 0, 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ([(*A, 0, 0)], [(0, 0, 10, 4.9, 0, 0.9)], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
        # a crowd is neither missed nor matched, and takes any number of boxes; a box outside is a false alarm
        (
            [(*A, 0, 1)],
            [(0, 0, 2, 2, 0, 0.9), (4, 4, 6, 6, 1, 0.9), (*B, 1, 0.9)],
            [[0, 0, 0], [0, 0, 0], [0, 1, 0]],
        ),
        # an object inside a crowd is matched as usual
        ([(0, 0, 40, 40, 0, 1), (*A, 1, 0)], [(*A, 1, 0.9)], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ([(*A, 0, 0), (*B, 0, 0)], [], [[0, 0, 2], [0, 0, 0], [0, 0, 0]]),
        ([], [(*A, 0, 0.9), (*B, 1, 0.9)], [[0, 0, 0], [0, 0, 0], [1, 1, 0]]),
    ],
)
def test_confusion(truths: list[tuple], found: list[tuple], expected: list[list[int]]) -> None:
    assert one_image(truths, found).confusion().tolist() == expected


def test_worst_images_first() -> None:
    box, other = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]

    def image(number: int, truths: list[tuple], found: list[tuple]) -> tuple[dict, dict]:
        labels, boxes = [label for label, _ in truths], [corners for _, corners in truths]
        truth = {"image_id": number, "boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels).long()}
        truth |= {"crowd": torch.zeros(len(truths), dtype=torch.bool), "area": torch.full((len(truths),), 100.0)}
        labels, boxes, scores = ([one[i] for one in found] for i in range(3))
        prediction = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels).long()}
        return {**prediction, "scores": torch.tensor(scores)}, truth

    images = [
        image(10, [(0, box)], [(0, box, 0.9)]),  # right
        image(11, [(0, box), (0, other)], [(0, box, 0.9)]),  # one missed: F1 2/3
        image(12, [(0, box)], []),  # missed
        image(13, [(0, box), (1, other)], [(1, box, 0.9), (0, other, 0.8)]),  # the classes mixed up
        image(14, [], []),
        image(15, [(0, box), (1, other)], [(0, box, 0.9), (1, other, 0.8), (1, box, 0.7)]),  # one too many: F1 0.8
        image(16, [(0, box)], [(0, box, 0.9), (1, other, 0.3)]),  # the second is too weak to count
    ]
    metric = CocoMAP(("a", "b"))
    metric.update(*map(list, zip(*images, strict=True)))
    with pytest.raises(RuntimeError, match="compute"):
        metric.worst(3)
    metric.compute()
    assert metric.worst(10) == [13, 12, 11, 15]
    assert metric.worst(2) == [13, 12]


def test_confusion_keeps_images_apart() -> None:
    images = random_images(images=30, classes=3, seed=7)
    whole = updated(*images, classes=3)
    whole.compute()
    total = np.zeros((4, 4), np.int64)
    for prediction, target in zip(*images, strict=True):
        single = updated([prediction], [target], classes=3)
        single.compute()
        total += single.confusion(score=0.3)
    matrix = whole.confusion(score=0.3)
    assert matrix.tolist() == total.tolist() and matrix[:3, :3].sum() > 20
    assert matrix[:3].sum() == sum(int((~target["crowd"]).sum()) for target in images[1])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", torch.tensor([2]), "labels outside 0..1"),
        ("labels", torch.tensor([-1]), "labels outside 0..1"),
        ("scores", torch.tensor([float("nan")]), "not finite"),
        ("scores", torch.tensor([0.5, 0.5]), "differ in length"),
    ],
)
def test_bad_input_names_the_image(field: str, value: torch.Tensor, message: str) -> None:
    empty = torch.zeros(0)
    target = {"image_id": 41, "boxes": empty.reshape(0, 4), "labels": empty, "crowd": empty, "area": empty}
    found = {"boxes": torch.tensor([[*A]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}
    with pytest.raises(InputError, match=f"image 41: .*{message}"):
        CocoMAP(("a", "b")).update([{**found, field: value}], [target])
    with pytest.raises(InputError, match="1 predictions, 0 targets"):
        CocoMAP(("a", "b")).update([found], [])


def _process(rank: int, port: int, shares: list[list[list[int]]], folder: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    predictions, targets = random_images(images=20, classes=4, seed=8)
    outcomes = []
    for share in shares:
        metric = CocoMAP(names(4)).to(torch.bfloat16)  # the type of a model must not get into the states
        for start in range(0, len(share[rank]), 3):
            batch = share[rank][start : start + 3]
            metric.update([predictions[i] for i in batch], [targets[i] for i in batch])
        values = {name: float(value) for name, value in metric.compute().items()}
        rest = metric.confusion(0.3).tolist(), len(metric.results()), metric.curves().tolist()
        by_image = metric.by_image()
        again = by_image.values(np.ones((1, len(by_image.images)), int))["map"].tolist()
        outcomes.append((values, *rest, len(metric.rows), again))
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
    destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    everything = list(range(20))
    shares = [
        [everything[::2], everything[1::2]],
        [everything[:13], everything[13:] + everything[:3]],  # repeated on the other process
        [everything + [0, 1], []],  # a process without images
        [[], everything],
        [everything, everything],
        [[], []],
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, args=(port, shares, str(tmp_path)), nprocs=2)
    predictions, targets = random_images(images=20, classes=4, seed=8)
    for share, *ranks in zip(
        shares, *[json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)], strict=True
    ):
        some = sorted({*share[0], *share[1]})
        one = updated([predictions[i] for i in some], [targets[i] for i in some], classes=4)
        result = {name: float(value) for name, value in one.compute().items()}
        for rank, (values, confusion, count, curves, states, again) in enumerate(ranks):
            assert again == pytest.approx([result["map"]], abs=1e-7, nan_ok=True)
            assert values == pytest.approx(result, abs=1e-6, nan_ok=True)
            assert confusion == one.confusion(0.3).tolist()
            assert count == len(one.results())
            np.testing.assert_allclose(np.array(curves), one.curves(), atol=1e-6)
            assert states == -(-len(share[rank]) // 3)  # compute() left each process its own images
