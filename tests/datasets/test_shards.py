"""Shards give what plain files give, from folders, the web and S3, whole or refused in a line."""

import io
import json
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.merged import Merged
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.datasets.formats.shard_folder import Shards
from mnv2_tasks.datasets.formats.torchvision_sets import ArraySplit, LoadedSource
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.formats.yolo import Yolo
from mnv2_tasks.datasets.reading import data_summary, places
from mnv2_tasks.datasets.reading.renumbered import Renumbered
from mnv2_tasks.datasets.sampling import Blocks, TrainingOrder
from mnv2_tasks.datasets.shard_writing import write_shards
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_rows
from mnv2_tasks.kinds import KINDS

SIDES = ("train", "val", "test")
COLOURS = {"sky": [0, 0, 200], "road": [90, 90, 90]}


def picture(path: Path, number: int = 0, size: tuple[int, int] = (40, 30), **saving: Any) -> None:
    """Noise that differs from image to image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **saving)


def folders(root: Path, *, images: int = 5) -> ImageFolder:
    """Class folders with what images there are: reduced, tiny, turned, of a palette, of 12 bits."""
    for number, name in enumerate(("cat", "dog", "gnu")):
        for i in range(images):
            picture(root / "train" / name / f"{i}.jpg", number * images + i)
            picture(root / "val" / name / f"{i}.png", 100 + number * images + i)
    picture(root / "train" / "cat" / "long.jpg", 7, (1500, 20))
    picture(root / "train" / "cat" / "tiny.PNG", 8, (5, 90))
    picture(root / "train" / "dog" / "turned.jpg", 9, exif=turned())
    Image.effect_noise((40, 30), 60).convert("P").save(root / "train" / "dog" / "palette.gif")
    wide = np.random.default_rng(3).integers(0, 4096, (30, 40), np.uint16)
    Image.fromarray(wide).save(root / "train" / "gnu" / "wide.png")
    (root / "train" / "gnu" / "photo.heic").touch()
    return ImageFolder(root)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def table(root: Path, separator: str | None = None) -> ImageFolder:
    labels = ["cat", "dog", "cat|dog", "", "dog", "cat"] if separator else ["cat", "dog", "cat", "dog", "dog", "cat"]
    for i in range(6):
        picture(root / "photos" / f"{i}.jpg", i)
    rows = [f"photos/{i}.jpg,{label},{'test' if i == 5 else 'train'}" for i, label in enumerate(labels)]
    (root / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")
    return ImageFolder(root, labels="labels.csv", separator=separator, val_fraction=0.4)


def coco(root: Path, *, bare: bool = True, **settings: Any) -> Coco:
    """Boxes and outlines of every form, a crowd, an image without objects, a size that is not told, one reduced."""
    sizes = [(40, 30), (1400, 1000), (40, 30), (40, 30), (40, 30), (40, 30)]
    images = []
    for i, (width, height) in enumerate(sizes):
        picture(root / "images" / f"{i}.jpg", i, (width, height), exif=turned() if i == 2 else Image.Exif())
        images.append({"id": i, "file_name": f"{i}.jpg", **({"width": width, "height": height} if i != 3 else {})})
    polygon = [[4.25, 3.1, 14.0, 3.0, 14.0, 23.0, 4.0, 23.0]]
    counts = [65, 10, 25, 1099]
    forms = [
        polygon,
        {"size": [30, 40], "counts": [*counts, 1]},
        [[1 / 3, 2.0, 20.0, 2.0, 9.0, 17.5]],
        None if bare else polygon,
    ]
    notes: list[dict[str, Any]] = []
    for image in (0, 1, 2, 4):
        for j in range(3):
            form = forms[(image + j) % 4] if image != 1 else polygon
            box = [4.3 + j, 3.1, 10 + image, 20 - j]
            notes.append({"id": len(notes), "image_id": image, "category_id": 3 + 2 * j, "bbox": box, "iscrowd": 0})
            notes[-1] |= {"area": 100.7 + j} | ({"segmentation": form} if form else {})
    notes[4]["iscrowd"] = 1
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 7, "name": "cow"}]
    contents = {"images": images, "annotations": notes, "categories": categories}
    (root / "all.json").write_text(json.dumps(contents))
    return Coco(root, annotations="all.json", images="images", val_fraction=0.3, **settings)


def voc(root: Path) -> Voc:
    for i in range(4):
        picture(root / "JPEGImages" / f"{i}.jpg", i)
        thing = (
            f"<object><name>{'cat' if i % 2 else 'dog'}</name><difficult>{int(i == 1)}</difficult>"
            "<bndbox><xmin>4</xmin><ymin>3</ymin><xmax>14</xmax><ymax>23</ymax></bndbox></object>"
        )
        text = f"<annotation><size><width>40</width><height>30</height></size>{thing}</annotation>"
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{i}.xml").write_text(text)
    return Voc(root, val_fraction=0.3)


def yolo(root: Path) -> Yolo:
    for i in range(4):
        picture(root / "images" / f"{i}.png", i)
        (root / "labels").mkdir(exist_ok=True)
        lines = [f"{i % 2} 0.1 0.1 0.6 0.2 0.5 {0.5 + i / 10}", "1 0.5 0.5 0.25 0.3"]
        (root / "labels" / f"{i}.txt").write_text("\n".join(lines[: 1 + i % 2]))
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    return Yolo(root, background=False)


def masks(root: Path) -> Masks:
    for i in range(5):
        picture(root / "images" / f"{i}.jpg", i, (1500, 40) if i == 2 else (40, 30))
        size = (1500, 40) if i == 2 else (40, 30)
        choice = np.random.default_rng(i).integers(0, 3, (size[1], size[0]))
        values = np.array([*COLOURS.values(), [0, 0, 0]], np.uint8)[choice]
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / "masks" / f"{i}.png")
    return Masks(root, colours=COLOURS, ignore=[[0, 0, 0]], val_fraction=0.3)


def merged(root: Path) -> Merged:
    """Breeds of all images, heads of some."""
    breeds = folders(root / "images", images=3)
    names = [f"train/cat/{i}.jpg" for i in range(3)] + ["train/dog/0.jpg"]
    entries = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    notes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 3, 10 + i, 20]} for i in range(4)]
    contents = {"images": entries, "annotations": notes, "categories": [{"id": 1, "name": "head"}]}
    (root / "train.json").write_text(json.dumps(contents))
    parts = {"breed": breeds, "heads": Coco(root, annotations="train.json", images="images", val_fraction=0)}
    return Merged(parts)


def arrays(root: Path) -> LoadedSource:
    rng = np.random.default_rng(0)
    grey = ArraySplit(rng.integers(0, 256, (6, 28, 28), np.uint8), np.arange(6) % 2, class_names=("zero", "one"))
    return LoadedSource(("zero", "one"), {"train": grey, "val": grey.subset(np.arange(6) > 3)})


MAKERS: dict[str, Any] = {
    "class folders": folders,
    "table": table,
    "table of several labels": partial(table, separator="|"),
    "coco": coco,
    "coco's boxes": partial(coco, outlines=False),
    "voc": voc,
    "yolo": yolo,
    "masks": masks,
    "merged": merged,
    "arrays": arrays,
    "scenes": lambda root: Scenes(48, train=6, val=3),
}


def write(source: Any, out: Path | str, *, shard_bytes: int = 20_000, **settings: Any) -> list[str]:
    return list(write_shards(source, str(out), shard_bytes=shard_bytes, **settings))


def check_equal(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert type(mine[name]) is type(value) and mine[name].dtype == value.dtype, name
            assert torch.equal(mine[name], value), name
        else:
            assert tuple(np.atleast_1d(mine[name])) == tuple(np.atleast_1d(value)), name


@pytest.mark.parametrize("maker", MAKERS)
def test_every_data_set_is_the_same_through_shards(tmp_path: Path, maker: str) -> None:
    (tmp_path / "plain").mkdir()
    plain = MAKERS[maker](tmp_path / "plain")
    lines = write(plain, tmp_path / "shards")
    shards = Shards(tmp_path / "shards")
    assert shards.provides == plain.provides
    there = [side for side in SIDES if plain.split(side)]
    assert lines[::2] == [data_summary.describe("data", side, plain.split(side)) for side in there]
    assert [line.partition(":")[0] for line in lines[1::2]] == there
    for side in SIDES:
        theirs, mine = plain.split(side), shards.split(side)
        if theirs is None:
            assert mine is None
            continue
        assert mine is not None and len(mine) == len(theirs)
        for depth in (16, 12):
            if depth == 16 or hasattr(theirs, "depth"):
                mine.depth = theirs.depth = depth
                for i in range(len(theirs)):
                    check_equal(mine[i], theirs[i])
        assert data_summary.describe("x", side, mine) == data_summary.describe("x", side, theirs)
        if hasattr(theirs, "find_depth"):
            assert mine.find_depth() == theirs.find_depth()
        for kind, names in plain.provides.items():
            part = theirs.teller(kind) if hasattr(theirs, "teller") else theirs
            counts = [0] * len(names) if part is None else KINDS[kind].label_counts(part, len(names))[0]
            told = mine.teller(kind)
            assert counts == ([0] * len(names) if told is None else KINDS[kind].label_counts(told, len(names))[0])
            if hasattr(theirs, "known"):
                assert (mine.known(kind) or list(range(len(mine)))) == (theirs.known(kind) or list(range(len(mine))))
        if hasattr(theirs, "label"):
            assert mine.all_labels().tolist() == [theirs.label(i) for i in range(len(theirs))]
            assert mine.all_labels().tolist() == [mine.label(i) for i in range(len(theirs))]
        for name in ("label_counts", "box_sizes", "box_labels", "pixel_counts"):
            masked = name != "pixel_counts" or "segmentation" in plain.provides
            if hasattr(theirs, name) and masked and (maker != "merged" or (side == "train" and name != "pixel_counts")):
                assert torch.equal(getattr(mine, name)(), getattr(theirs, name)()), name


@pytest.mark.parametrize("maker", ["class folders", "table of several labels", "coco", "masks"])
def test_classes_are_chosen_as_of_plain_files(tmp_path: Path, maker: str) -> None:
    """By data.classes, and for a checkpoint that knows more classes."""
    make = partial(coco, bare=False) if maker == "coco" else MAKERS[maker]
    choice = {"masks": ["road"], "class folders": ["cat", "gnu"]}.get(maker, ["dog", "cat"])
    (tmp_path / "a").mkdir()
    plain = make(tmp_path / "a")
    write(plain, tmp_path / "shards")
    mine = Shards(tmp_path / "shards", classes=choice)
    root = tmp_path / "a"
    chosen: Any = {
        "class folders": partial(ImageFolder, root),
        "table of several labels": partial(ImageFolder, root, labels="labels.csv", separator="|", val_fraction=0.4),
        "coco": partial(Coco, root, annotations="all.json", images="images", val_fraction=0.3),
        "masks": partial(Masks, root, colours=COLOURS, ignore=[[0, 0, 0]], val_fraction=0.3),
    }[maker](classes=choice)
    assert mine.provides == chosen.provides
    kind = next(iter(plain.provides))
    wider = ("another", *plain.provides[kind])
    wide_mine = Renumbered(Shards(tmp_path / "shards"), kind, wider).split("train")
    wide_plain = Renumbered(plain, kind, wider).split("train")
    for ours, theirs in ((mine.split("train"), chosen.split("train")), (wide_mine, wide_plain)):
        assert len(ours) == len(theirs)
        for i in range(len(theirs)):
            check_equal(ours[i], theirs[i])
        for name in ("label_counts", "box_sizes", "pixel_counts"):
            if hasattr(theirs, name):
                assert torch.equal(getattr(ours, name)(), getattr(theirs, name)()), name


def test_shards_of_shards_and_in_webdatasets_layout(tmp_path: Path) -> None:
    plain = folders(tmp_path / "plain")
    write(plain, tmp_path / "a")
    write(Shards(tmp_path / "a"), tmp_path / "b", shard_bytes=8_000, seed=1)
    ours, theirs = Shards(tmp_path / "b").split("train"), plain.split("train")
    assert ours is not None and theirs is not None and len(ours.side.names) > 2
    for i in range(len(theirs)):
        check_equal(ours[i], theirs[i])
    first = tmp_path / "a" / "train-000000.tar"
    with tarfile.open(first) as opened:
        names = opened.getnames()
        assert names[1] == "000000000.json"
        file = json.loads(opened.extractfile(names[1]).read())["file"]  # type: ignore[union-attr]
        content = opened.extractfile(names[0]).read()  # type: ignore[union-attr]
    assert content in {path.read_bytes() for path in (tmp_path / "plain").rglob(file)}
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(first), shardshuffle=False))
    assert [f"{s['__key__']}.json" for s in samples] == [name for name in names if name.endswith(".json")]


def test_loader_processes_may_be_started_anew(tmp_path: Path) -> None:
    """What is mapped is not copied into them."""
    write(table(tmp_path / "plain"), tmp_path / "shards")
    split = Shards(tmp_path / "shards").split("train")
    assert split is not None
    split.label(0)
    check_equal(pickle.loads(pickle.dumps(split))[0], split[0])
    assert (
        b"numpy._core.multiarray" not in pickle.dumps(split.columns)[:200] and not split.columns.__getstate__()["_open"]
    )


# ------------------------------------------------------------------------------------------------------------- order


def blocks(*, shards: int = 7, each: int = 5, window: int = 2) -> tuple[Blocks, list[list[int]]]:
    """Blocks of shuffled images, and where they list the shards that they are about to read."""
    wanted: list[list[int]] = []
    images = np.random.default_rng(0).permutation(shards * each)
    starts = np.arange(shards + 1) * each
    return Blocks(starts, images, window=window, expect=lambda names: wanted.append(list(names))), wanted


def test_streams_read_each_shard_once_a_pass() -> None:
    order, wanted = blocks()
    epochs = []
    for epoch in range(2):
        sampler = TrainingOrder(35, 35, seed=3, blocks=order)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {key[0] for key in keys} == {epoch} and sorted(key[1] for key in keys) == list(range(35))
        epochs.append([key[1] for key in keys])
    assert epochs[0] != epochs[1]
    assert order.images is not None
    row = {int(image): place for place, image in enumerate(order.images)}
    shards = [row[image] // 5 for image in epochs[0]]
    read = [set(shards[first : first + 10]) for first in range(0, 35, 10)]
    assert [set(names) for names in wanted[:4]] == read and not set.intersection(*read)
    assert len(set(shards[:5])) == 2  # the images of a window are mixed


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_an_order_goes_on_in_the_middle_on_other_processes(streams: bool, balanced: bool) -> None:
    """Two processes are killed in the second pass of an epoch, in the middle of a shard; three go on."""
    length, weights = 35, torch.arange(1.0, 36, dtype=torch.double) if balanced else None

    def orders(processes: int, *, drawn: int = 0) -> list[list[Any]]:
        made = []
        for rank in range(processes):
            order, wanted = blocks()
            share = {"processes": processes, "rank": rank, "blocks": order if streams else None}
            sampler = TrainingOrder(length, 60 // processes, seed=3, weights=weights, **share)  # type: ignore[arg-type]
            sampler.set_epoch(1)
            sampler.go_on(1, drawn)
            made.append(list(sampler))
            assert len(sampler) == 60 // processes  # of a whole epoch
            if drawn and streams:  # nothing is fetched that was read before
                assert len({shard for names in wanted for shard in names}) == 5
        return made

    def together(shares: list[list[Any]]) -> list[Any]:
        return [key for keys in zip(*shares, strict=True) for key in keys]

    whole = together(orders(1))
    assert len(whole) == 60 and together(orders(2)) == whole
    assert together(orders(3, drawn=48)) == whole[48:]
    sampler = TrainingOrder(length, 60, seed=3)
    sampler.go_on(1, 48)
    assert len(list(sampler)) == 60  # of another epoch all


def test_streams_are_balanced_among_what_is_at_hand() -> None:
    order, _ = blocks(shards=8, each=200)
    weights = torch.where(torch.arange(1600) % 10 == 0, 9.0, 1.0).double()
    keys = list(TrainingOrder(1600, 1600, blocks=order, weights=weights))
    assert 0.4 < np.mean([index % 10 == 0 for _, index, _ in keys]) < 0.6


# ------------------------------------------------------------------------------------------------- from elsewhere


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def log_message(self, *_: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of tmp_path/shards."""
    Quiet.asked.clear()
    handler = partial(Quiet, directory=str(tmp_path / "shards"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_web_through_a_cache_of_bounded_size(tmp_path: Path, web: str) -> None:
    plain = folders(tmp_path / "plain")
    write(plain, tmp_path / "shards")
    sizes = [path.stat().st_size for path in (tmp_path / "shards").glob("*.tar")]
    most = 2 * max(sizes) / 1e9 + 1e-9
    source = Shards(web, cache=tmp_path / "cache", cache_gb=most)
    data = DataModule({"web": source}, {"classifier": KINDS["classification"]}, sizes=32, batch_size=4, workers=2)
    split, theirs = source.split("train"), plain.split("train")
    assert split is not None and theirs is not None and split.window == 1 and len(split.side.names) > 2
    data.tell(["train", "val"])
    for _ in range(2):
        Quiet.asked.clear()
        for _ in data.loaders("train", training=True)["web"]:
            held = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.tar"))
            assert held <= most * 1e9
        ids = torch.cat([targets["classifier"]["image_id"] for _, targets in data.loaders("train")["web"]])
        assert sorted(ids.tolist()) == list(range(len(theirs)))
    for i in range(len(theirs)):
        check_equal(split[i], theirs[i])
    with pytest.raises(InputError, match="data.cache_gb"):
        Shards(web, cache=tmp_path / "cache", cache_gb=most / 4).split("train")


def test_what_is_damaged_on_the_way_is_fetched_again(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.time, "sleep", lambda seconds: None)
    write(table(tmp_path / "plain"), tmp_path / "shards")
    split = Shards(web, cache=tmp_path / "cache").split("train")
    assert split is not None
    whole = split[0]
    (kept,) = (tmp_path / "cache").rglob("train-000000.tar")
    content = kept.read_bytes()
    for damage in (content[:-3000], bytes(len(content))):
        kept.write_bytes(damage)
        check_equal(split[0], whole)
    kept.unlink()
    (tmp_path / "shards" / "train-000000.tar").write_bytes(content[:700])
    with pytest.raises(InputError, match=r"train-000000.tar: it has 700 bytes .* cut short; copy it again"):
        split[0]
    (tmp_path / "shards" / "train-000000.tar").unlink()
    with pytest.raises(InputError, match=r"http://.*/train-000000.tar: no such file; correct data.root"):
        split[0]
    assert not [*(tmp_path / "cache").rglob("*.part")]
    with pytest.raises(InputError, match=r"index.json: no such file"):
        Shards(f"{web}/elsewhere", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="no-such://bucket: .*give a folder, s3://"):
        Shards("no-such://bucket", cache=tmp_path / "cache")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/data"
    server.stop()


def test_s3(tmp_path: Path, bucket: str) -> None:
    """Written there and streamed with two loader processes; then a shard is not there."""
    plain = coco(tmp_path)
    lines = write(plain, bucket, shard_bytes=100_000)
    assert [line.partition(":")[0] for line in lines[1::2]] == ["train", "val"]
    source = Shards(bucket, cache=tmp_path / "cache")
    split, theirs = source.split("train"), plain.split("train")
    assert split is not None and theirs is not None
    data = DataModule({"s3": source}, {"ssdlite": KINDS["detection"]}, sizes=32, batch_size=2, workers=2)
    ids = torch.cat([targets["ssdlite"]["image_id"] for _, targets in data.loaders("train")["s3"]])
    assert sorted(ids.tolist()) == list(range(len(theirs)))
    for i in range(len(theirs)):
        check_equal(split[i], theirs[i])
    with pytest.raises(InputError, match="s3://bucket/data: a data set is there already"):
        write(plain, bucket)
    import s3fs

    s3fs.S3FileSystem().rm(f"bucket/data/{split.side.names[0]}")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=r"s3://bucket/data/train-0+.tar: no such file"):
        [split[i] for i in range(len(split))]
    with pytest.raises(InputError, match=r"s3://nowhere: cannot be written to"):
        write(plain, "s3://nowhere")


# ------------------------------------------------------------------------------------------------------------ faults


def change_index(root: Path, **changes: Any) -> None:
    table = json.loads((root / "index.json").read_text())
    for key, value in changes.items():
        *places, last = key.split("__")
        inner = table
        for place in places:
            inner = inner[int(place)] if place.isdecimal() else inner[place]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    (root / "index.json").write_text(json.dumps(table))


INDEX_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another program's": ({"format": "webdataset"}, "its format"),
    "another version": ({"version": 2}, "its version is 2"),
    "no classes": ({"classes": None}, "'classes'"),
    "an unknown kind": ({"classes": {"sounds": ["a"]}}, "classes"),
    "an unknown side": ({"sides": {"dev": {}}}, "'images'"),
    "a path as name": ({"sides__train__shards__0__file": "../../etc/x.tar"}, "sides.train.shards"),
    "a column's path": ({"sides__train__columns__ends__file": "/etc/x.npy"}, "sides.train.columns.ends"),
    "other counts": ({"sides__train__images": 99}, "sides.train.shards"),
    "a negative size": ({"sides__train__shards__0__bytes": -1}, "sides.train.shards"),
    "no ends": ({"sides__train__columns__ends": None}, "sides.train.columns"),
    "a side of nothing": ({"sides__train": 7}, "sides"),
    "counts that are none": ({"sides__train__facts__classification__label_counts": [1]}, "facts.classification"),
}


def test_foreign_and_damaged_shards_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    write(table(tmp_path / "plain"), root)
    text = (root / "index.json").read_text()
    for changes, words in INDEX_FAULTS.values():
        change_index(root, **changes)
        with pytest.raises(InputError, match=rf"index.json: .*{words}.*write it anew with mnv2 shards"):
            Shards(root)
        (root / "index.json").write_text(text)
    for damage, words in ((text[:200], "not JSON"), ("[1]", "format"), ("\x00", "not JSON")):
        (root / "index.json").write_text(damage)
        with pytest.raises(InputError, match=f"index.json: .*{words}"):
            Shards(root)
    (root / "index.json").unlink()
    with pytest.raises(InputError, match=r"test-000000.tar is there, but no index.json; give the folder"):
        Shards(root)
    (root / "index.json").write_text(text)

    shard = root / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    for damage, words in (
        (None, "No such file"),
        (content[:-512], "cut short"),
        (content + bytes(512), "another file"),
        (bytes(len(content)), "checksum"),
    ):
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)
        with pytest.raises(InputError, match=rf"train-000000.tar: .*{words}"):
            split = Shards(root).split("train")
            assert split is not None
            [split[i] for i in range(len(split))]
        shard.write_bytes(content)

    column = root / "train-ends.npy"
    ends = column.read_bytes()
    column.write_bytes(ends[:-1] + b"\x09")
    with pytest.raises(InputError, match="train-ends.npy: its checksum"):
        Shards(root).split("train")[0]  # type: ignore[index]


def evil(_: Any = None) -> None:
    raise AssertionError("what a file held was run")


class Evil:
    def __reduce__(self) -> Any:
        return evil, (1,)


def test_nothing_that_shards_hold_is_run(tmp_path: Path) -> None:
    """A pickled array as a column, and whatever else in place of labels, with checksums that fit."""
    root = tmp_path / "shards"
    write(table(tmp_path / "plain"), root)
    file = root / "train-labels.npy"
    np.save(file, np.array([Evil(), Evil()], object), allow_pickle=True)
    told = {"length": 2, "bytes": file.stat().st_size, "crc32": places.checksum(file)}
    for key, value in told.items():
        change_index(root, **{f"sides__train__columns__labels__{key}": value})
    change_index(
        root,
        sides__train__columns__labels__length=json.loads((root / "index.json").read_text())["sides"]["train"]["images"],
    )
    with pytest.raises(InputError, match="train-labels.npy: cannot be read as an array"):
        Shards(root).split("train").label(0)  # type: ignore[union-attr]


RECORDS: dict[str, tuple[dict[str, bytes], str]] = {
    "pickled labels": ({"png": b"", "json": pickle.dumps(Evil())}, "labels are damaged"),
    "no labels": ({"png": b""}, "labels are damaged"),
    "two images": ({"png": b"", "jpg": b"", "json": b"{}"}, "holds 2 images"),
    "no image": ({"png": b"no image", "json": b'{"file": "a.png", "size": [3, 4], "declared": true}'}, "no image of"),
    "a size of words": ({"png": b"", "json": b'{"file": "a", "size": ["3", 4], "declared": true}'}, "labels are"),
    "another class": (
        {"png": b"*", "json": b'{"file": "a", "size": [30, 40], "declared": true, "label": 9}'},
        "labels",
    ),
    "a mask of another size": (
        {"png": b"*", "json": b'{"file": "a", "size": [30, 40], "declared": true}', "mask.png": b"*"},
        "its mask is uint8",
    ),
}


@pytest.mark.parametrize("fault", RECORDS)
def test_samples_of_other_programs_are_refused(tmp_path: Path, fault: str) -> None:
    root = tmp_path / "shards"
    write(table(tmp_path / "plain"), root, sides=["test"])
    members, words = RECORDS[fault]
    buffer, png = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30)).save(png, "PNG")
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for suffix, content in members.items():
            content = png.getvalue() if content == b"*" else content
            header = tarfile.TarInfo(f"000000000.{suffix}")
            header.size = len(content)
            opened.addfile(header, io.BytesIO(content))
        end = opened.offset
    (root / "test-000000.tar").write_bytes(buffer.getvalue())
    changes: dict[str, Any] = {"sides__test__shards__0__bytes": len(buffer.getvalue())}
    for name, value in (("ends", end), ("sums", places.zlib.crc32(buffer.getvalue()[:end]))):
        np.save(root / f"test-{name}.npy", np.array([value], np.uint32))
        changes[f"sides__test__columns__{name}__crc32"] = places.checksum(root / f"test-{name}.npy")
    change_index(root, **changes)
    with pytest.raises(InputError, match=rf"test-000000.tar: sample 000000000.*{words}"):
        Shards(root).split("test")[0]  # type: ignore[index]


def test_settings_and_places_are_checked(tmp_path: Path, cli: Any) -> None:
    code, error = cli("shards", f"out={tmp_path / 'out'}", fails=True)
    assert code == 2 and "data=[]: give one data set" in error
    source = table(tmp_path / "plain")
    for settings, words in (
        ({"shard_bytes": 0}, "shard_mb"),
        ({"sides": ["dev"]}, "dev is no side"),
        ({"sides": []}, "nothing is to be written"),
    ):
        with pytest.raises(InputError, match=words):
            write(source, tmp_path / "shards", **settings)
    (tmp_path / "shards").mkdir(exist_ok=True)
    (tmp_path / "shards" / "mine.txt").touch()
    with pytest.raises(InputError, match="something is there already"):
        write(source, tmp_path / "shards")
    for settings, words in (({"cache_gb": 0}, "cache_gb"), ({"window": 0}, "window"), ({"classes": ["yak"]}, "yak")):
        write(source, tmp_path / words, sides=["test"])
        with pytest.raises(InputError, match=words):
            Shards(tmp_path / words, **settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no train side"):
        Shards(tmp_path / "yak").split("train")


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_training_is_that_of_the_plain_files(tmp_path: Path, cli: Any) -> None:
    """metrics.csv is equal, with 0 and 2 loader processes, stopped and resumed."""
    folders(tmp_path / "plain")
    cli("shards", "data=imagefolder", f"data.root={tmp_path / 'plain'}", f"out={tmp_path / 'shards'}", "shard_mb=1")
    small = [
        "task=classifier",
        "size=32",
        "backbone.width=0.1",
        "trainer.max_epochs=2",
        "loader.batch_size=4",
        "optim.schedule=null",
        "examples=0",
    ]

    def rows(name: str) -> list[dict[str, float]]:
        timed = ("seconds", "images_per_second", "step_ms")
        table = read_rows(tmp_path / "runs" / "classifier" / name / "metrics.csv")
        assert table[0].keys() > set(timed)
        return [{key: value for key, value in row.items() if key not in timed} for row in table]

    def train(name: str, *settings: str) -> list[dict[str, float]]:
        cli("train", *small, f"runs={tmp_path / 'runs'}", f"name={name}", *settings)
        return rows(name)

    shards = ["data=shards", f"data.root={tmp_path / 'shards'}"]
    plain = train("plain", "data=imagefolder", f"data.root={tmp_path / 'plain'}", "loader.workers=0")
    train("part", *shards, "loader.workers=2", "trainer.max_epochs=1")
    resume = f"resume={tmp_path / 'runs' / 'classifier' / 'part'}"
    cli("train", resume, "trainer.max_epochs=2", "loader.workers=0")
    assert rows("part") == plain
