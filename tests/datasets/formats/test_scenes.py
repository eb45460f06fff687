"""Scenes are reproducible, and their three kinds of labels agree with each other."""

import pickle
import random
import zlib

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from mnv2_tasks.datasets.formats.scenes import LARGEST_RATIO, SHAPES, Scenes, ScenesSplit
from mnv2_tasks.errors import InputError

TRAIN = Scenes(train=300).split("train")
assert TRAIN is not None


@pytest.fixture(scope="module")
def samples():
    return [TRAIN[i] for i in range(len(TRAIN))]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def test_format(samples):
    sample = samples[7]
    assert sample["image"].shape == (3, 128, 128) and sample["image"].dtype == torch.uint8
    assert isinstance(sample["image"], tv_tensors.Image) and isinstance(sample["mask"], tv_tensors.Mask)
    assert isinstance(sample["boxes"], tv_tensors.BoundingBoxes)
    assert sample["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    assert sample["boxes"].canvas_size == sample["size"] == (128, 128)
    assert sample["image_id"] == 7
    count = len(sample["labels"])
    assert sample["boxes"].shape == (count, 4) and sample["boxes"].dtype == torch.float32
    assert sample["area"].shape == (count,) and sample["area"].dtype == torch.float32
    assert sample["labels"].dtype == sample["label"].dtype == torch.int64 and sample["label"].ndim == 0
    assert not sample["crowd"].any() and sample["crowd"].shape == (count,)
    assert sample["mask"].shape == (128, 128) and sample["mask"].dtype == torch.uint8


def test_provides_the_three_kinds():
    assert set(Scenes.provides) == {"classification", "detection", "segmentation"}
    assert Scenes.provides["detection"] == Scenes.provides["classification"] == tuple(SHAPES)
    assert Scenes.provides["segmentation"] == ("background", *SHAPES)


def test_splits():
    scenes = Scenes(train=5, val=3)
    train, val = scenes.split("train"), scenes.split("val")
    assert (len(train), len(val)) == (5, 3)
    assert scenes.split("test") is None
    assert not same(train[0], val[0])
    assert [sample["image_id"] for sample in val] == [0, 1, 2]  # an IndexError ends the iteration
    with pytest.raises(IndexError):
        val[-1]


def test_an_image_depends_on_seed_split_and_index_alone(samples):
    again = Scenes(train=9000, val=1).split("train")
    assert same(again[250], samples[250]) and same(again[3], samples[3])
    other = Scenes(seed=1).split("train")
    assert not torch.equal(other[3]["image"], samples[3]["image"])
    assert len({sample["image"].numpy().tobytes() for sample in samples}) == len(samples)


def test_bytes_are_the_recorded_ones(samples):
    """A change here makes every recorded result of the project stale: say so, or undo it."""
    images = b"".join(samples[i]["image"].numpy().tobytes() for i in range(8))
    masks = b"".join(samples[i]["mask"].numpy().tobytes() for i in range(8))
    assert (zlib.crc32(images), zlib.crc32(masks)) == (432612418, 3848763997)


def test_boxes_and_areas_are_the_extent_of_the_masks(samples):
    """Where a class has one object in the scene, its mask pixels are that object's."""
    checked = 0
    for sample in samples:
        assert set(sample["mask"].unique().tolist()) - {0} == set((sample["labels"] + 1).tolist())
        for box, label, area in zip(sample["boxes"], sample["labels"], sample["area"], strict=True):
            y, x = (sample["mask"] == label + 1).nonzero(as_tuple=True)
            x0, y0, x1, y1 = box.tolist()
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128 and 0 < area <= (x1 - x0) * (y1 - y0)
            if (sample["labels"] == label).sum() == 1:
                extent = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert [x0, y0, x1, y1] == [int(edge) for edge in extent]
                assert area == len(x)
                checked += 1
        assert sample["area"].sum() == (sample["mask"] > 0).sum()
    assert checked > 100


def test_the_label_is_the_class_of_the_clearly_largest_object(samples):
    for sample in samples:
        if len(sample["labels"]) == 0:
            assert sample["label"] == -1
            continue
        largest, *rest = sample["area"].sort(descending=True).values.tolist()
        assert sample["label"] == sample["labels"][sample["area"].argmax()]
        assert not rest or largest >= LARGEST_RATIO * rest[0]


def test_scenes_are_varied(samples):
    counts = [len(sample["labels"]) for sample in samples]
    assert set(counts) == set(range(6))
    assert 0.005 < counts.count(0) / len(counts) < 0.07
    for field in ("labels", "label"):
        seen = torch.cat([sample[field].reshape(-1) for sample in samples])
        share = seen[seen >= 0].bincount(minlength=len(SHAPES)) / (seen >= 0).sum()
        assert share.min() > 0.2 and share.max() < 0.5
    longest = TRAIN.box_sizes().max(1).values
    assert longest.min() < 0.3 and longest.max() > 0.6
    edges = [((s["boxes"] == 0) | (s["boxes"] == 128)).any() for s in samples if len(s["boxes"])]
    assert sum(edges) > 20  # some objects are partly out of the image


def test_colour_does_not_tell_the_class(samples):
    """The mean colour of a class's pixels differs between classes by no more than chance allows."""
    means = []
    for kind in range(len(SHAPES)):
        shown = [(sample["image"], sample["mask"] == kind + 1) for sample in samples]
        own = [image[:, mask].float().mean(1) for image, mask in shown if mask.any()]
        means.append(torch.stack(own).mean(0))
    assert torch.stack(means).std(0).max() < 15


@pytest.mark.parametrize(
    ("size", "expected"), [(64, (64, 64)), ((48, 96), (48, 96)), ([97, 33], (97, 33)), (16, (16, 16))]
)
def test_sizes(size, expected):
    split = Scenes(size, train=20).split("train")
    for sample in split:
        assert sample["image"].shape == (3, *expected) and sample["mask"].shape == expected
        assert sample["size"] == expected
        assert (sample["boxes"][:, 2:] <= torch.tensor(expected[::-1])).all()


def test_box_sizes_come_from_a_sample(samples, monkeypatch):
    sizes = TRAIN.box_sizes()
    boxes = torch.cat([sample["boxes"].as_subclass(torch.Tensor) for sample in samples])
    assert sizes.dtype == torch.float32
    expected = (boxes[:, 2:] - boxes[:, :2]) / 128
    assert sorted(sizes.tolist()) == sorted(expected.tolist())

    drawn = []
    rng = ScenesSplit._rng
    monkeypatch.setattr(ScenesSplit, "_rng", lambda self, index: drawn.append(index) or rng(self, index))
    Scenes((32, 64), train=100_000).split("train").box_sizes()
    assert 256 <= len(drawn) <= 512 and max(drawn) > 99_000


def test_splits_are_picklable(samples):
    assert same(pickle.loads(pickle.dumps(TRAIN))[5], samples[5])


def test_no_global_generator_is_used():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state()
    TRAIN[11], TRAIN.box_sizes()
    assert random.getstate() == before[0] and pickle.dumps(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": (128,)}, {"size": (8, 128)}, {"train": 0}, {"val": -1}, {"seed": -1}]
)
def test_wrong_settings_are_refused_in_one_line(wrong):
    with pytest.raises(InputError, match=f"^[^\n]*{next(iter(wrong))}=[^\n]*$"):
        Scenes(**wrong)
