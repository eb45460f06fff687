"""The line and its limit on made-up memory; which images a step is measured with; a GPU that has no room."""

import pytest
import pytorch_lightning as pl
import torch
from builders import HEADS, joint
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.kinds import DETECTION
from mnv2_tasks.training import largest_batch as module
from mnv2_tasks.training.largest_batch import find_largest, fullest, largest_batch, most_images
from mnv2_tasks.training.trial import Trial

MB, GB = 10**6, 10**9


class Memory:
    """A step of n images takes `fixed` and `an_image` n, and does not fit from `full` images on."""

    def __init__(self, fixed: int, an_image: int, full: int = 10**9):
        self.fixed, self.an_image, self.full = fixed, an_image, full
        self.asked: list[int] = []

    def __call__(self, size: int) -> int | None:
        self.asked.append(size)
        return self.fixed + self.an_image * size if size < self.full else None


@pytest.mark.parametrize(
    ("memory", "free", "most", "size", "asked"),
    [
        (Memory(100 * MB, 10 * MB), 2 * GB, 9999, 150, [2, 8, 32, 150]),  # 1600 of 2000 MB; 8 is too near to 2
        (Memory(100 * MB, MB), 2 * GB, 9999, 1500, [2, 8, 32, 128, 1500]),
        (Memory(100 * MB, 10 * MB), 2 * GB, 60, 60, [2, 8, 32, 60]),  # all images there are
        (Memory(100 * MB, 10 * MB), 2 * GB, 5, 5, [2, 5]),
        (Memory(0, 100 * MB), GB, 9999, 8, [2, 8]),
        (Memory(0, 100 * MB), 700 * MB, 9999, 5, [2, 4, 5]),  # four times two would not fit
        (Memory(0, 100 * MB), 400 * MB, 9999, 3, [2, 3]),
        (Memory(100 * MB, 10 * MB, full=100), 2 * GB, 9999, 84, [2, 8, 32, 150, 112, 84]),  # a quarter less, and again
        (Memory(100 * MB, 0), 2 * GB, 64, 64, [2, 8, 32, 64]),
    ],
)
def test_the_line_is_followed_to_its_limit_and_checked(memory, free, most, size, asked):
    found = largest_batch(memory, free=free, most=most)
    assert (found.size, memory.asked) == (size, asked)
    assert found.measured == memory(size) == found.predicted or memory.full < 10**9
    assert len(found.line) <= 2


def test_a_step_that_takes_more_than_predicted_is_made_smaller():
    found = largest_batch(lambda size: 10 * MB * size + MB * size**2 // 50, free=2 * GB, most=9999)
    assert found.size < 150 and found.measured <= 0.9 * 2 * GB < 10 * MB * 150 + MB * 150**2 // 50 + 2 * GB


def test_two_images_have_to_fit():
    refused(lambda: largest_batch(Memory(0, 10, full=2), free=GB, most=9), "1,000 MB", "two images", "smaller size=")
    refused(lambda: largest_batch(Memory(0, GB), free=GB, most=9), "two images")


def test_the_images_with_most_boxes_are_measured(shared):
    from mnv2_tasks.datasets.formats.coco import Coco

    scenes = DataModule({"a": Scenes(64, train=100)}, {"ssdlite": DETECTION}, sizes=64)
    split = scenes.split("a", "train")
    counts = [len(split[index]["boxes"]) for index in range(64)]  # every one: 100 // 64
    assert [counts[index] for index in fullest(scenes, "a", count=5)] == sorted(counts, reverse=True)[:5]
    cells = DataModule({"a": Coco(shared / "data" / "bccd")}, {"ssdlite": DETECTION}, sizes=64)
    split = cells.split("a", "train")
    chosen = [len(split[index]["boxes"]) for index in fullest(cells, "a", count=3)]
    assert chosen == sorted((len(split._objects_of(i).image) for i in range(len(split))), reverse=True)[:3]


def test_batches_of_several_sources_grow_together():
    data = DataModule(
        {"a": Scenes(64, train=100), "b": Scenes(64, train=30)},
        {"ssdlite": DETECTION, "other": DETECTION},
        sizes=64,
        assign={"ssdlite": "a", "other": "b"},
    )
    assert most_images(data) == 100 and most_images(data, 2) == 50
    assert data.shares(64) == {"a": 64, "b": 30} and data.shares(64, 2) == {"a": 50, "b": 15}
    data.mix = {"a": 1, "b": 3}
    assert most_images(data) == 400 and data.shares(40) == {"a": 10, "b": 30}


def trial(**heads) -> tuple[Trial, DataModule]:
    task, data = joint(heads or HEADS)
    task.schedule = None
    return Trial(task, pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)), data


def test_a_real_step_of_all_heads_is_measured_and_a_failure_is_survived(monkeypatch):
    one, data = trial()
    found = find_largest(one, data, devices=[one.device])
    assert found.size == 12 and found.measured > 0
    one, data = trial(classifier=HEADS["classifier"])
    step = one.step

    def full(batch, rate):
        if len(batch[0][0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(batch, rate)

    monkeypatch.setattr(one, "step", full)
    assert find_largest(one, data, devices=[one.device]).size == 6
    assert step([data.batch("scenes", "train", [0, 1, 2], whole=False)], 0.1) > 0


def test_processes_share_the_memory_of_a_cpu(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 8 * GB)
    one, data = trial(classifier=HEADS["classifier"])
    assert find_largest(one, data, devices=[one.device] * 2, processes=2).free == 4 * GB
    monkeypatch.setattr(module, "free_memory", lambda: None)
    refused(lambda: find_largest(one, data, devices=[one.device]), "loader.batch_size=auto", "give a number")
