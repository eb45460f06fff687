"""What the formats on disk share: words for sides, folders and what is left out of them, names as they are written."""

import os
import unicodedata

import pytest

from mnv2_tasks.datasets.reading.file_names import FileNames, check_inside
from mnv2_tasks.datasets.reading.listing import LeftOut, subfolders, walk
from mnv2_tasks.datasets.reading.sides import by_side, side_of
from mnv2_tasks.errors import InputError

SPELLED = {
    "train": (
        "train",
        "Training",
        "TRN",
        "train2017",
        "train_images",
        "images-train",
        "TrainingSet",
        "trainset",
        "0_train",
    ),
    "val": ("val", "valid", "Validation", "dev", "val2017", "instances_val2017", "valid images", "my-val-set"),
    "test": ("test", "Testing", "test-dev2017", "testdata", "Test Set", "imagesTest"),
    "trainval": ("trainval", "train_val", "trainval2012"),
    None: ("test_tube", "steam train", "cat", "trained", "latest", "development", "", "2017", "prüfung", "train test"),
}


@pytest.mark.parametrize(("side", "name"), [(side, name) for side, names in SPELLED.items() for name in names])
def test_sides_are_one_vocabulary(side, name):
    assert side_of(name) == side


def test_any_words_may_stand_around_a_side_where_the_caller_says_so():
    assert side_of("pets_train", among_others=True) == "train"
    assert side_of("latest", among_others=True) is None


def test_a_side_twice_is_refused(tmp_path):
    assert by_side(["Valid", "Training", "cats"], tmp_path) == {"train": "Training", "val": "Valid"}
    assert by_side(["trainval", "test"], tmp_path) == {"train": "trainval", "test": "test"}
    with pytest.raises(InputError, match="valid and validation both are its val side"):
        by_side(["valid", "validation"], tmp_path)


def test_a_folder_is_walked_without_what_systems_put_there(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/@eaDir/c.png", ".hidden/x.jpg", "__MACOSX/._b.jpg", "._b.jpg", "d.heic", "e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    files, left = walk(tmp_path, (".jpg", ".png"))
    assert files == ["a/c.png", "b.JPG"]
    reasons = {"hidden": 4, "linked back": 2, "broken link": 1, "no regular file": 1, ".heic": 1, "without a suffix": 1}
    assert left == reasons
    assert str(left).startswith("10 files left out: 4 hidden, 2 linked back, 1 .heic")
    assert str(LeftOut()) == ""
    assert subfolders(tmp_path) == ["a"]


def test_folders_linked_from_elsewhere_are_followed(tmp_path):
    (tmp_path / "store" / "cats").mkdir(parents=True)
    (tmp_path / "store" / "cats" / "a.jpg").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cats").symlink_to(tmp_path / "store" / "cats")
    assert walk(tmp_path / "data", (".jpg",))[0] == ["cats/a.jpg"] and subfolders(tmp_path / "data") == ["cats"]


def test_a_written_name_finds_its_file(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Größe.JPG")
    for name in (
        "in/a b.jpg",
        f"in/{decomposed}",
        "x.jpg",
        "x.JPG",
        "twice.Jpg",
        "twice.jPg",
        r"odd\name.jpg",
        "5%25.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = FileNames(tmp_path)
    assert names.find(r"in\a b.jpg") == names.find("in/a%20b.JPG") == "in/a b.jpg"
    assert names.find("in/Größe.jpg") == f"in/{decomposed}"
    assert (names.find("x.jpg"), names.find("x.JPG"), names.find("x.jpG")) == ("x.jpg", "x.JPG", None)
    assert names.find("twice.jpg") is None
    assert names.find(r"odd\name.jpg") == r"odd\name.jpg" and names.find("5%25.jpg") == "5%25.jpg"
    assert names.find_all(["none.jpg", "", "a\0b.jpg"]) == [None] * 3


def test_names_do_not_lead_out_of_the_data_set(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    (root / "images").mkdir(parents=True)
    (elsewhere / "deep").mkdir(parents=True)
    (root / "images" / "link").symlink_to(elsewhere / "deep")
    (tmp_path / "alias").symlink_to(root)
    inside = [
        "a.jpg",
        "b/../a.jpg",
        "../a.jpg",
        f"{root}/images/a.jpg",
        f"{tmp_path}/alias/a.jpg",
        "a..b/c.jpg",
        "...jpg",
    ]
    inside += [
        "link/a.jpg",
        "link/b/../a.jpg",
        "~/a.jpg",
        r"b\..\a.jpg",
    ]  # a link is the user's own; ~ is a folder's name
    check_inside(inside, root / "images", root=root, where="a.json")
    check_inside(["a.jpg", f"{elsewhere}/a.jpg"], elsewhere, root=root, where="a.json")  # images elsewhere, as set
    for name in ("../../a.jpg", "/etc/p", f"{root}2/a.jpg", "b/../../../a.jpg", r"..\..\a.jpg", r"b\..\..\..\a.jpg",
                 r"C:\a.jpg", "c:/a.jpg", r"\\host\a.jpg", "link/../a.jpg", "../..", f"{root}/../a.jpg"):  # fmt: skip
        with pytest.raises(InputError, match="a.json: .* leads out of .*data.outside=true"):
            check_inside([name], root / "images", root=root, where="a.json")
