"""Class folders and tables of labels: sides, samples, counts, and one clear line for everything that can be wrong."""

import pickle
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.formats import imagefolder
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.reading.file_split import held_out
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages, held_out_by_class
from mnv2_tasks.datasets.reading.sides import side_of


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def folders(root: Path, *names: str, images: int = 2) -> Path:
    for name in names:
        for i in range(images):
            picture(root / name / f"{i}.jpg")
    return root


def table(root: Path, *lines: str, images: int = 6) -> Path:
    for i in range(images):
        picture(root / "photos" / f"{i}.jpg")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def load(source: ImageFolder, side: str = "train") -> LabelledImages:
    split = source.split(side)
    assert split is not None
    return split


def names_of(source: ImageFolder, side: str) -> list[str]:
    return [load(source, side).file_name(i) for i in range(len(load(source, side)))]


# Folders


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_sides_and_samples(tmp_path: Path, val: str) -> None:
    folders(tmp_path, "train/dog", "train/cat", f"{val}/cat", "test/dog")
    picture(tmp_path / "train" / "cat" / "deeper" / "9.PNG", (20, 60))
    picture(tmp_path / "train" / ".cache" / "9.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    source = ImageFolder(tmp_path)
    assert source.provides == {"classification": ("cat", "dog")}
    train = load(source)
    files = ["cat/0.jpg", "cat/1.jpg", "cat/deeper/9.PNG", "dog/0.jpg", "dog/1.jpg"]
    assert names_of(source, "train") == [f"train/{name}" for name in files]
    assert [train.label(i) for i in range(5)] == [0, 0, 0, 1, 1]
    assert train.label_counts().tolist() == [3, 2] and train.label_counts().dtype == torch.int64
    assert load(source, "val").label_counts().tolist() == [2, 0]
    assert load(source, "test").label_counts().tolist() == [0, 2] and load(source, "test").label(0) == 1
    sample = train[2]
    assert sorted(sample) == ["image", "image_id", "label", "size"]
    assert sample["image"].shape == (3, 60, 20) and sample["image"].dtype == torch.uint8
    assert sample["label"].dtype == torch.int64 and sample["label"].shape == () and sample["label"] == 0
    assert sample["image_id"] == 2 and sample["size"] == (60, 20)
    assert pickle.loads(pickle.dumps(train))[4]["label"] == 1
    with pytest.raises(IndexError):
        train[5]


def test_large_images_are_reduced(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b")
    picture(tmp_path / "a" / "0.jpg", (400, 100))
    sample = load(ImageFolder(tmp_path, val_fraction=0, max_side=100))[0]
    assert sample["image"].shape == (3, 25, 100) and sample["size"] == (100, 400)


def test_class_folders_alone_are_split_by_name(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog", "train", images=20)
    folders(tmp_path, "rare", images=2)
    folders(tmp_path, "single", images=1)
    classes = ["cat", "dog", "rare", "single", "train"]
    refused(lambda: ImageFolder(tmp_path), "train is called as a side is", "data.classes=[cat,dog,rare,single,train]")
    source = ImageFolder(tmp_path, classes=classes)
    assert source.provides["classification"] == tuple(classes)
    train, val = names_of(source, "train"), names_of(source, "val")
    assert load(source, "val").notes == [f"held out of train, {len(val)} of 63 by name"] and not load(source).notes
    assert source.split("test") is None and not set(train) & set(val) and len(train) + len(val) == 63
    assert load(source).label_counts()[3] == 1 and load(source, "val").label_counts().tolist()[2:4] == [1, 0]
    assert names_of(ImageFolder(tmp_path, classes=classes), "val") == val
    for name in ("cat", "dog"):
        own = [f"{name}/{i}.jpg" for i in range(20)]
        assert {file for file in val if file.startswith(name)} == set(np.array(own)[held_out(own, 0.2)])
    for i in range(20, 30):
        picture(tmp_path / "cat" / f"{i}.jpg")
    assert {name for name in val if "cat" in name} <= set(names_of(ImageFolder(tmp_path, classes=classes), "val"))


def test_hold_out_is_by_class() -> None:
    names, targets = [f"{i}.jpg" for i in range(1000)], np.arange(1000) % 4
    mask = held_out_by_class(names, targets, 0.2)
    assert all(0.12 < mask[targets == label].mean() < 0.28 for label in range(4))
    assert not held_out_by_class(names, targets, 0.0).any()


def test_train_and_test_alone(tmp_path: Path) -> None:
    folders(tmp_path, "train/a", "train/b", "test/a", images=10)
    source = ImageFolder(tmp_path)
    assert all(name.startswith("train/") for name in names_of(source, "val")) and len(load(source, "test")) == 10
    source = ImageFolder(tmp_path, val_fraction=0)
    assert len(load(source)) == 20 and len(load(source, "val")) == 10 and source.split("test") is None


def test_classes_choose_and_order(tmp_path: Path) -> None:
    folders(tmp_path, "train/a", "train/b", "train/c", "val/c", "val/other")
    source = ImageFolder(tmp_path, classes=["c", "a"])
    assert source.provides == {"classification": ("c", "a")}
    assert names_of(source, "train") == ["train/c/0.jpg", "train/c/1.jpg", "train/a/0.jpg", "train/a/1.jpg"]
    assert load(source).label_counts().tolist() == [2, 2] and load(source, "val").label_counts().tolist() == [2, 0]


def test_unlabelled_test_images_are_no_side(tmp_path: Path) -> None:
    folders(tmp_path, "train/a", "train/b", "test")
    assert ImageFolder(tmp_path).split("test") is None


LAYOUTS: dict[str, tuple[list[str], list[str]]] = {  # class folders; notes of train
    "Training Testing": (["Training/a", "Training/b", "Testing/a"], []),
    "TrainingSet my_valid_set": (["TrainingSet/a", "TrainingSet/b", "my_valid_set/a"], []),
    "prefix": (["pets_train/a", "pets_train/b", "pets_test/a"], []),
    "0_train": (["0_train/a", "0_train/b", "1_val/a"], []),
    "a folder more": (["data/set/train/a", "data/set/train/b", "data/set/dev/a"], ["all in data/set/"]),
    "of the same name": (
        ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a"],
        ["in seg_train/seg_train/"],
    ),
    "others": (["train/a", "train/b", "val/a", "pred"], ["not used: pred/"]),
    "others beside": (["data/train/a", "data/train/b", "data/val/a", "docs"], ["all in data/", "not used: docs/"]),
    "unlabelled test": (
        ["train/a", "train/b", "val/a", "test/test"],
        ["test/ is no side: no class folder has its 2 images"],
    ),
    "trainval": (["trainval/a", "trainval/b", "test/b"], []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sides_in_any_spelling(tmp_path: Path, layout: str) -> None:
    names, notes = LAYOUTS[layout]
    source = ImageFolder(folders(tmp_path, *names))
    assert source.provides == {"classification": ("a", "b")} and load(source).notes == notes
    other = next(name for name in names[2:] if side_of(Path(name).parts[-2], among_others=True) in ("val", "test"))
    side = "val" if source.split("test") is None else "test"
    assert names_of(source, side) == [f"{other}/0.jpg", f"{other}/1.jpg"]
    assert len(load(source)) + len(load(source, "val")) == (6 if side == "val" else 4)


def test_one_folder_around_class_folders(tmp_path: Path) -> None:
    source = ImageFolder(folders(tmp_path, "archive/pets/cat", "archive/pets/dog"))
    assert source.provides["classification"] == ("cat", "dog") and load(source).notes == ["all in archive/pets/"]


def test_what_folders_hold_besides_is_counted(tmp_path: Path) -> None:
    folders(tmp_path, "train/a", "train/b", "train/c", "val/a", "train/a/.ipynb_checkpoints", "train/b/@eaDir", "old")
    picture(tmp_path / "train" / "loose.jpg"), picture(tmp_path / "cover.png")
    (tmp_path / "train" / "a" / "phone.heic").touch(), (tmp_path / "train" / ".DS_Store").touch()
    (tmp_path / "train" / "b" / "up").symlink_to(tmp_path)
    left = load(ImageFolder(tmp_path, classes=["a", "b"])).left_out
    assert left == {
        **{"hidden": 5, ".heic": 1, "linked back": 1, "of other classes": 2, "in other folders": 2},
        **{"beside the class folders": 1, "beside the folders": 1},
    }


def test_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "Café", unicodedata.normalize("NFD", "Café")
    source = ImageFolder(folders(tmp_path, f"train/{decomposed}", "train/b", f"val/{composed}"))
    assert source.provides["classification"] == ("Café", "b") and load(source, "val").label_counts().tolist() == [2, 0]
    assert len(load(ImageFolder(tmp_path, classes=[decomposed, "b"]))) == 4
    refused(lambda: ImageFolder(folders(tmp_path, f"train/{composed}")), "Café", "two forms of Unicode")


def test_folders_that_can_be_meant_in_two_ways(tmp_path: Path) -> None:
    make = lambda *names: lambda: ImageFolder(folders(tmp_path, *names))  # noqa: E731
    refused(make("A/cat/train", "A/cat/test", "A/dog/train", "A/dog/test"), "cat and dog both hold train")
    for odd, names in (("test", ["cat", "dog", "test"]), ("valid", ["invalid", "valid"])):
        root = tmp_path / odd
        refused(lambda root=root, names=names: ImageFolder(folders(root, *names)), f"{odd} is called as a side is")
        assert ImageFolder(root, classes=names).provides["classification"] == tuple(names)
    root = folders(tmp_path / "B", "train/bus", "train/train", "val/train", "test/bus")
    refused(lambda: ImageFolder(root), "B/train: train is called as a side is", "data.classes=[bus,train]")
    source = ImageFolder(root, classes=["bus", "train"])
    assert [load(source, side).label_counts().tolist() for side in ("train", "val", "test")] == [[2, 2], [0, 2], [2, 0]]
    refused(lambda: ImageFolder(folders(tmp_path / "C", "val/a", "test")), "there is no train folder beside val, test")
    root = folders(tmp_path / "D", "train/dogs ", "train/b", "val/Dogs")
    refused(lambda: ImageFolder(root), "val/Dogs", "'dogs '", "one name")
    root = folders(tmp_path / "E", "pets_train", "pets_test")
    (root / "train.csv").touch()
    refused(lambda: ImageFolder(root), "no class folders", "data.labels=train.csv")


def test_folder_faults(tmp_path: Path) -> None:
    refused(lambda: ImageFolder(tmp_path / "gone"), "gone", "does not exist", "data.root=")
    refused(lambda: ImageFolder(folders(tmp_path / "a", ".")), str(tmp_path / "a"), "no class folders", "data.labels=")
    refused(lambda: ImageFolder(folders(tmp_path / "b", "train", "test")), "no class folders")
    refused(lambda: ImageFolder(folders(tmp_path / "c", "train/a", "train/b", "val")), "c/val", "no class folders")
    refused(lambda: ImageFolder(folders(tmp_path / "d", "train/a", "train/b", "val/b", "val/z")), "val/z", "train")
    refused(lambda: ImageFolder(folders(tmp_path / "e", "train/a", "train/b", "val/a", "valid/a")), "val and valid")
    refused(lambda: ImageFolder(folders(tmp_path / "f", "only")), "only", "two or more")
    (tmp_path / "g" / "empty").mkdir(parents=True)
    refused(lambda: ImageFolder(folders(tmp_path / "g", "a", "b")), str(tmp_path / "g" / "empty"), "no images")
    refused(lambda: ImageFolder(folders(tmp_path / "h", "cat", "Cat ")), "'Cat '", "'cat'", "duplicate names")
    root = folders(tmp_path / "i", "a", "b")
    refused(lambda: ImageFolder(root, classes=["a", "x"]), "'x'", "data.classes")
    refused(lambda: ImageFolder(root, classes=["a", "a"]), "data.classes", "different")
    refused(lambda: ImageFolder(root, separator="|"), "data.labels")
    refused(lambda: ImageFolder(root, val_fraction=1.5), "data.val_fraction=1.5")


def test_broken_image_is_named_before_training(tmp_path: Path) -> None:
    root = folders(tmp_path, "a", "b")
    (root / "b" / "0.jpg").write_bytes(b"no jpeg")
    source = ImageFolder(root, val_fraction=0)
    refused(lambda: source.split("train"), "b/0.jpg", "cannot be read", "replace it")


def test_many_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.JPEG").touch()
    monkeypatch.setattr(imagefolder, "MAX_CHECKED", 9)
    assert len(load(ImageFolder(tmp_path, val_fraction=0))) == 10


def test_pets3(shared: Path) -> None:
    source = ImageFolder(shared / "data" / "pets3" / "images")
    assert source.provides == {"classification": ("Abyssinian", "Bengal", "american_bulldog")}
    assert load(source).label_counts().tolist() == [100, 100, 100]
    assert load(source, "val").label_counts().tolist() == [98, 100, 100] and source.split("test") is None


def test_cifar10_as_folders(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "cifar10" / "cifar10_imagefolder.tar.xz") as archive:
        for count, member in enumerate(archive):  # the first few hundred; a solid archive takes long
            if count > 400:
                break
            archive.extract(member, tmp_path, filter="data")
    side = next((tmp_path / "cifar10").iterdir())
    label = next(side.iterdir()).name
    folders(tmp_path / "cifar10", "train/zebra", f"train/{label}")
    source = ImageFolder(tmp_path / "cifar10", val_fraction=0)
    shown = load(source, "val" if side.name == "test" else "train")
    assert label in source.provides["classification"] and shown[5]["image"].shape[1:] in ((32, 32), (30, 40))


# Tables


@pytest.mark.parametrize("separator", [None, "|"])
def test_table(tmp_path: Path, separator: str | None) -> None:
    rows = ["photos/0.jpg,dog,train", '"photos/1.jpg", cat ,Train', "photos/2.jpg,cat,train", "photos/3.jpg,dog,valid"]
    root = table(tmp_path, "\ufefffile,label,split", *rows, "photos/4.jpg,cat,test")
    source = ImageFolder(root, labels="labels.csv", separator=separator)
    kind = "multilabel" if separator else "classification"
    assert source.provides == {kind: ("cat", "dog")}
    assert names_of(source, "train") == [f"photos/{i}.jpg" for i in range(3)]
    assert names_of(source, "val") == ["photos/3.jpg"] and names_of(source, "test") == ["photos/4.jpg"]
    assert load(source).label_counts().tolist() == [2, 1]
    sample = load(source)[0]
    if separator is None:
        assert sample["label"] == 1 and load(source).label(0) == 1
    else:
        assert sample["presence"].tolist() == [0.0, 1.0] and sample["presence"].dtype == torch.float32


def test_table_of_several_labels(tmp_path: Path) -> None:
    rows = ["photos/0.jpg,dog|cat", "photos/1.jpg,", "photos/2.jpg,cat", "photos/3.jpg,bird |cat"]
    root = table(tmp_path, "file,label", *rows)
    source = ImageFolder(root, labels="labels.csv", separator="|", val_fraction=0)
    train = load(source)
    assert source.provides == {"multilabel": ("bird", "cat", "dog")} and train.label_counts().tolist() == [1, 3, 1]
    assert [train[i]["presence"].tolist() for i in range(4)] == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert train.label(0) == -1 and train.label_counts().dtype == torch.int64
    some = ImageFolder(root, labels="labels.csv", separator="|", val_fraction=0, classes=["dog"])
    assert load(some)[0]["presence"].tolist() == [1] and len(load(some)) == 4
    held = ImageFolder(root, labels="labels.csv", separator="|")
    assert len(load(held)) + len(load(held, "val")) == 4 and len(load(held, "val"))


def test_table_finds_files_as_others_write_them(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label,split", r"photos\0.jpg,a,Training", "photos/1.JPG,b,trn", "photos/2.jpg,a,dev")
    picture(root / "photos" / "a b.jpg"), picture(root / "photos" / unicodedata.normalize("NFD", "é.jpg"))
    with (root / "labels.csv").open("a", encoding="utf-8") as file:
        file.write("photos/a%20b.jpg,b,testing\nphotos/é.jpg,b,test\n")
    source = ImageFolder(root, labels="labels.csv")
    assert names_of(source, "train") == ["photos/0.jpg", "photos/1.jpg"] and len(load(source, "val")) == 1
    assert names_of(source, "test") == ["photos/a b.jpg", unicodedata.normalize("NFD", "photos/é.jpg")]
    assert load(source).left_out == {"in no row of the table": 3}
    (root / "labels.csv").write_text("file,label\nphotos/0.jpg,a\nphotos\\0.jpg,b\n")
    refused(lambda: ImageFolder(root, labels="labels.csv"), "line 3", "line 2", "keep one")


def test_table_of_names_in_a_folder(tmp_path: Path) -> None:
    source = ImageFolder(table(tmp_path, "file,label", "0.jpg,a", "1.jpg,b", "2.jpg,b"), labels="labels.csv")
    assert load(source).notes == ["files are in photos/"] and load(source).path(0).is_file()


def test_tables_columns_are_found_in_any_case_or_said(tmp_path: Path) -> None:
    rows = ["photos/0.jpg,a,train,8", "photos/1.jpg,b,Training,8", "photos/2.jpg,b,dev,9"]
    source = ImageFolder(table(tmp_path, "File, Label ,SPLIT,width", *rows), labels="labels.csv")
    assert names_of(source, "train") == ["photos/0.jpg", "photos/1.jpg"]
    assert names_of(source, "val") == ["photos/2.jpg"] and load(source).notes == ["columns that are not read: width"]


def test_lists_that_class_folders_do_not_read_are_refused(tmp_path: Path) -> None:
    folders(tmp_path, "photos/a", "photos/b")
    for name in ("TrainImages.txt", "TestImages.txt"):
        (tmp_path / name).write_text("a/0.jpg\n")
    refused(lambda: ImageFolder(tmp_path), "TestImages.txt and TrainImages.txt seem to list sides", "data.labels=")
    (tmp_path / "photos").rename(tmp_path / "train")
    assert len(load(ImageFolder(tmp_path, val_fraction=0))) == 4
    rows = "file,label\ntrain/a/0.jpg,a\ntrain/b/0.jpg,b\n"
    (tmp_path / "train.csv").write_text(rows), (tmp_path / "val.csv").write_text(rows)
    source = ImageFolder(tmp_path, labels="train.csv", val_fraction=0)
    assert load(source).notes == ["not read: TestImages.txt, TrainImages.txt, val.csv"]


def test_folders_that_every_class_has_are_said(tmp_path: Path) -> None:
    source = ImageFolder(folders(tmp_path, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"))
    assert load(source).notes == ["every class has the folders cat, dog: all in them is of that class"]


def test_folders_inside_a_class_that_are_called_as_sides(tmp_path: Path) -> None:
    folders(tmp_path, "cat/photos/train", "cat/photos/val", "dog/photos/train")
    refused(lambda: ImageFolder(tmp_path), "nothing tells sides", "cat/photos", "train/<class>/")


def test_what_is_linked_or_hidden_beside_the_sides_is_counted(tmp_path: Path) -> None:
    folders(tmp_path, "train/a", "train/b", "__MACOSX/train/a")
    (tmp_path / "val").symlink_to("train"), (tmp_path / "a.heic").touch()
    assert load(ImageFolder(tmp_path)).left_out == {"linked back": 1, "hidden": 2, ".heic": 1}
    (tmp_path / "train" / "c").mkdir(), (tmp_path / "train" / "c" / "a.heic").touch()
    refused(lambda: ImageFolder(tmp_path), "train/c", "no images (1 file left out: 1 .heic)")


def test_a_folder_beside_a_table_of_labels_is_no_class(tmp_path: Path) -> None:
    folders(tmp_path, "photos"), (tmp_path / "labels.csv").write_text("file,label\nphotos/0.jpg,a\n")
    refused(
        lambda: ImageFolder(tmp_path), "photos is the only class", "name the labels' table as data.labels=labels.csv"
    )


TABLE_FAULTS: dict[str, tuple[list[str], list[str]]] = {
    "no label column": (["file,class", "photos/0.jpg,a"], ["no column 'label'", "file, class"]),
    "empty": ([""], ["no column 'file'"]),
    "no rows": (["file,label"], ["no training images"]),
    "no label": (["file,label", "photos/0.jpg,a", "photos/1.jpg,"], ["line 3", "the label is empty"]),
    "short row": (["file,label", "photos/0.jpg"], ["line 2", "the label is empty"]),
    "no file": (["file,label", ",a"], ["line 2", "the file is empty"]),
    "split": (["file,label,split", "photos/0.jpg,a,no"], ["line 2", "'no'", "train, val or test"]),
    "duplicate": (["file,label", "photos/0.jpg,a", "./photos/0.jpg,b"], ["line 3", "line 2"]),
    "alike": (["file,label", "photos/0.jpg,a", "photos/1.jpg,A"], ["'A' and 'a'", "duplicate names"]),
    "unknown in val": (
        ["file,label,split", "photos/0.jpg,a,train", "photos/1.jpg,b,train", "photos/2.jpg,c,val"],
        ["line 4", "'c'"],
    ),
    "alike in val": (
        ["file,label,split", "photos/0.jpg,dog,train", "photos/1.jpg,cat,train", "photos/2.jpg,Dog,val"],
        ["line 4", "'Dog'", "it is 'dog'"],
    ),
    "sides elsewhere": (
        ["file,label,data set", "photos/0.jpg,a,train", "photos/1.jpg,b,train", "photos/2.jpg,b,test"],
        ["column 'data set' tells sides", "call it split"],
    ),
    "sides in names": (
        ["file,label", "photos/0.jpg,a", "photos/train/1.jpg,b", "photos\\valid\\2.jpg,b"],
        ["photos/train/1.jpg and photos/valid/2.jpg", "add a column split"],
    ),
    "one class": (["file,label", "photos/0.jpg,a", "photos/1.jpg,a"], ["a is the only class"]),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_table_faults(tmp_path: Path, fault: str) -> None:
    lines, parts = TABLE_FAULTS[fault]
    root = table(tmp_path, *lines)
    refused(lambda: ImageFolder(root, labels="labels.csv"), str(tmp_path), *parts)


def test_table_files(tmp_path: Path) -> None:
    root = table(tmp_path, "file,label", "photos/0.jpg,a", "photos/gone.jpg,b")
    source = ImageFolder(root, labels="labels.csv", val_fraction=0)
    refused(lambda: source.split("train"), "gone.jpg", "no such image")
    refused(lambda: ImageFolder(root, labels="other.csv"), "other.csv", "No such file", "data.labels")
    (root / "labels.csv").write_bytes(b"file,label\n\xff\xfe,b")
    refused(lambda: ImageFolder(root, labels="labels.csv"), "labels.csv", "cannot be read as text")
