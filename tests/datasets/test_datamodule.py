"""Orders, partial labels, batches of one source and several."""

import pytest
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2_tasks.datasets.datamodule import DataModule, assign_tasks
from mnv2_tasks.datasets.sampling import EvaluationOrder, TrainingOrder
from mnv2_tasks.datasets.transforms import joint, plain, seen_size, segmentation
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import CLASSIFICATION, DETECTION, MULTILABEL, SEGMENTATION


class Split(Dataset):
    """Images whose pixels are their index; image i has the fields of `has(i)`."""

    def __init__(self, length, has, *, size=(40, 60)):
        self.length, self.has, self.size = length, has, size

    def __len__(self):
        return self.length

    def label(self, index):
        return 0 if index % 4 else 1

    def __getitem__(self, index):
        box = tv_tensors.BoundingBoxes([[5.0, 5, 25, 30]], format="XYXY", canvas_size=self.size)
        fields = {
            "label": torch.tensor(self.label(index)),
            "presence": torch.tensor([1.0, 0.0]),
            "mask": tv_tensors.Mask(torch.full(self.size, index % 2, dtype=torch.uint8)),
            "boxes": box,
            "labels": torch.tensor([1]),
            "crowd": torch.tensor([False]),
            "area": torch.tensor([500.0]),
        }
        image = tv_tensors.Image(torch.full((3, *self.size), index % 256, dtype=torch.uint8))
        kept = {name: value for name, value in fields.items() if name in self.has(index)}
        return {"image": image, "image_id": index, "size": self.size, **kept}


EVERYTHING = ("label", "presence", "mask", "boxes", "labels", "crowd", "area")


class Source:
    def __init__(self, kinds, train=8, val=3, has=lambda index: EVERYTHING):
        self.provides = {kind: ("a", "b") for kind in kinds}
        self.sides = {"train": Split(train, has), "val": Split(val, has)}

    def split(self, name):
        return self.sides.get(name)


KINDS = {"classifier": CLASSIFICATION, "ssdlite": DETECTION, "deeplabv3": SEGMENTATION}
NAMES = tuple(kind.name for kind in KINDS.values())


def module(sources, tasks, **settings):
    settings = {"sizes": {name: (32, 32) for name in sources}, "batch_size": 4, "workers": 0, **settings}
    return DataModule(sources, tasks, **settings)


def order(processes, **settings):
    return [list(TrainingOrder(10, 10 // processes, processes=processes, rank=r, **settings)) for r in range(processes)]


def test_a_pass_holds_each_image_once_whatever_the_processes():
    (alone,), shared = order(1), order(2)
    assert sorted(index for _, index, _ in alone) == list(range(10))
    assert [key for pair in zip(*shared, strict=True) for key in pair] == alone
    again = TrainingOrder(10, 10)
    again.set_epoch(1)
    assert [key[0] for key in again] == [1] * 10 and [key[1] for key in again] != [key[1] for key in alone]


def test_a_small_data_set_goes_round_with_new_passes():
    sampler = TrainingOrder(4, 10)
    keys = list(sampler)
    assert [key[0] for key in keys] == [0] * 4 + [1] * 4 + [2] * 2
    sampler.set_epoch(1)
    assert [key[0] for key in sampler] == [3] * 4 + [4] * 4 + [5] * 2  # no pass, and so no augmentation, comes twice


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_counts_each_image_once(processes):
    orders = [EvaluationOrder(7, processes=processes, rank=rank) for rank in range(processes)]
    keys = [list(one) for one in orders]
    assert len({len(one) for one in keys}) == 1 and all(len(a) == len(b) for a, b in zip(keys, orders, strict=True))
    assert sorted(index for one in keys for _, index, repeat in one if not repeat) == list(range(7))


def test_balanced_sampling_evens_out_classes():
    data = module({"s": Source(["classification"], train=400)}, {"classifier": CLASSIFICATION}, balanced=True)
    (loader,) = data.loaders("train", training=True).values()
    labels = torch.cat([targets["classifier"]["label"] for _, targets in loader])
    assert 0.4 < labels.float().mean() < 0.6  # a quarter in the data


def test_balanced_sampling_needs_a_label_an_image(monkeypatch):
    monkeypatch.setattr(Split, "label", lambda self, index: -1)  # as in multi-label data
    with pytest.raises(InputError, match="loader.balanced"):
        module({"s": Source(["multilabel"])}, {"multilabel": MULTILABEL}, balanced=True).loaders("train", training=True)


def test_evaluating_train_sees_every_image_once_as_it_is():
    data = module({"s": Source(["classification"], train=11)}, {"classifier": CLASSIFICATION}, fit="crop")
    data.augment = {"classification": lambda size: pytest.fail("augmented")}
    data.tested = "train"
    parts = [part for ((part,), _, _) in data.test_dataloader()]
    assert [i for _, targets in parts for i in targets["classifier"]["image_id"].tolist()] == list(range(11))
    expected, _ = data.batch("s", "train", list(range(11)))
    assert torch.equal(torch.cat([images for images, _ in parts]), expected)


def test_what_an_image_does_not_tell_is_ignored():
    has = lambda index: (("label",), ("boxes", "labels", "crowd", "area"), ("mask",), ())[index % 4]  # noqa: E731
    data = module({"s": Source(NAMES, train=4, val=4, has=has)}, KINDS, augment={"joint": joint})
    for side in ("train", "val"):
        (loader,) = data.loaders(side, training=side == "train").values()
        ((_, targets),) = list(loader)
        label, boxes, mask = (targets[task] for task in KINDS)
        order = label["image_id"].tolist()
        assert [int(v) >= 0 for v in label["label"]] == [i == 0 for i in order]
        assert boxes["known"].tolist() == [i == 1 for i in order]
        assert ((boxes["labels"] >= 0).sum(1) > 0).tolist() == [i == 1 for i in order]
        assert (mask["mask"] != 255).flatten(1).any(1).tolist() == [i == 2 for i in order]
    multi = module({"s": Source(["multilabel"], has=has)}, {"multilabel": MULTILABEL})
    assert (next(iter(multi.loaders("val")["s"]))[1]["multilabel"]["presence"] == -1).all()


def test_several_sources_share_a_step():
    sources = {"photos": Source(["classification"], train=20), "streets": Source(["segmentation"], train=6, val=5)}
    tasks = {"classifier": CLASSIFICATION, "deeplabv3": SEGMENTATION}
    data = module(sources, tasks, augment={"segmentation": segmentation})
    batches = list(data.train_dataloader())
    assert len(batches) == 5
    for (first, second), _, _ in batches:
        assert list(first[1]) == ["classifier"] and list(second[1]) == ["deeplabv3"]
        assert len(first[0]) == len(second[0]) == 4
    parts = [part for (part, _, _) in data.val_dataloader()]
    assert [[one is not None for one in part] for part in parts] == [[True, True], [False, True]]
    shares = module(sources, tasks, mix={"photos": 3, "streets": 1}, batch_size=8)
    (first, second), _, _ = next(iter(shares.train_dataloader()))
    assert (len(first[0]), len(second[0])) == (6, 2)


def test_who_teaches_whom():
    sources = {"a": Source(["detection", "segmentation"]), "b": Source(["segmentation"])}
    tasks = {"ssdlite": DETECTION, "deeplabv3": SEGMENTATION}
    with pytest.raises(InputError, match="no task learns from data=b .*assign"):
        assign_tasks(sources, tasks, {})
    assert assign_tasks(sources, tasks, {"deeplabv3": "b"})["b"] == {"deeplabv3": SEGMENTATION}
    with pytest.raises(InputError, match="classifier learns classification, but a provides detection, segmentation; b"):
        assign_tasks(sources, {"classifier": CLASSIFICATION}, {})


def test_masks_and_boxes_in_their_frames():
    data = module({"s": Source(NAMES)}, KINDS, fit="pad", sizes={"s": (64, 48)})
    images, targets = data.batch("s", "val", [1, 2])
    assert images.shape == (2, 3, 64, 48)
    assert targets["classifier"]["seen"].tolist() == [[32, 48]] * 2  # 40 x 60 into 64 x 48
    masks = targets["deeplabv3"]
    assert masks["whole"].shape == (2, 40, 60) and masks["whole_size"].tolist() == [[40, 60]] * 2
    assert (masks["mask"][0, :32] == 1).all() and (masks["mask"][:, 32:] == 255).all()
    assert targets["ssdlite"]["boxes"][0, 0].tolist() == pytest.approx([4, 4, 20, 24])


def test_plain_transforms():
    image = tv_tensors.Image(torch.zeros(3, 100, 50, dtype=torch.uint8))
    assert plain((40, 40), "stretch", (100, 50))(image).shape == (3, 40, 40)
    padded = plain((40, 40), "pad", (100, 50))(image)
    assert padded.shape == (3, 40, 40) and seen_size((40, 40), (100, 50), "pad") == (40, 20)
    assert (padded[:, :, 20:] == 127).all() and (padded[:, :, :20] == 0).all()
    assert plain((40, 40), "crop", (100, 50))(image).shape == (3, 40, 40)


@pytest.mark.parametrize("original", [(394, 500), (448, 299), (300, 225), (240, 240), (60, 500), (90, 31)])
def test_crop_is_the_evaluation_of_imagenet(original):
    pixels = torch.randint(0, 256, (3, *original), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(pixels)
    assert torch.equal(plain((224, 224), "crop", original)(pixels), wanted)


def test_mixing_makes_soft_labels():
    tasks = {"classifier": CLASSIFICATION}
    data = module(
        {"s": Source(["classification"])},
        tasks,
        mixup=1.0,
        augment={"classification": lambda size: plain(size, "stretch", size)},
    )
    first, again = (next(iter(data.loaders("train", training=True)["s"])) for _ in range(2))
    label = first[1]["classifier"]["label"]
    assert label.shape == (4, 2) and label.sum(1).tolist() == pytest.approx([1] * 4)
    assert (
        first[0].dtype == torch.uint8
        and torch.equal(first[0], again[0])
        and torch.equal(label, again[1]["classifier"]["label"])
    )
    with pytest.raises(InputError, match="mixup"):
        module({"s": Source(NAMES)}, KINDS, mixup=0.5)


def test_grey():
    data = module({"s": Source(["classification"])}, {"classifier": CLASSIFICATION}, channels=1)
    assert data.batch("s", "val", [0])[0].shape == (1, 1, 32, 32)
