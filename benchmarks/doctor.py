"""How many planted near-duplicates the data doctor names: `python benchmarks/doctor.py duplicates <folder> ...`.

Of each folder half of the images are train and half val. Then copies of training images are put into val: compressed
anew, mirrored, made brighter or darker, cut (half to nine tenths of the area), cut and mirrored, and cut, brighter and
compressed together. What the doctor names besides are pairs that were there before: they are drawn, to be looked at.
"""

import argparse
import csv
import io
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages
from mnv2_tasks.doctor.duplicates import Looks
from mnv2_tasks.doctor.leaks import look_at_duplicates
from mnv2_tasks.doctor.looking import look, sides_of
from mnv2_tasks.kinds import CLASSIFICATION
from mnv2_tasks.visual.contact_sheet import contact_sheet

CHANGES = ("jpeg", "mirrored", "brightness", "cut", "cut+mirrored", "cut+brightness+jpeg")


def changed(picture: Image.Image, how: str, draw: random.Random) -> Image.Image:
    for change in how.split("+"):
        if change == "jpeg":
            picture.save(content := io.BytesIO(), "JPEG", quality=30)
            picture = Image.open(content).convert("RGB")
        elif change == "mirrored":
            picture = ImageOps.mirror(picture)
        elif change == "brightness":
            picture = ImageEnhance.Brightness(picture).enhance(draw.choice([0.6, 1.5]))
        else:
            side, stretch = draw.uniform(0.5, 0.9) ** 0.5, draw.uniform(0.9, 1.1)
            width, height = (round(whole * min(1.0, part)) for whole, part in
                             zip(picture.size, (side * stretch, side / stretch), strict=True))  # fmt: skip
            x, y = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
            picture = picture.crop((x, y, x + width, y + height))
    return picture


def duplicates(folder: Path, planted: int, pairs: Path | None) -> None:
    """One row of the table: a folder, how many of each change are named, what else is."""
    draw = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    train = draw.sample(files, len(files) // 2)
    with tempfile.TemporaryDirectory() as place:
        truth = {}
        for number, file in enumerate(draw.sample(train, planted)):
            how = CHANGES[number % len(CHANGES)]
            with Image.open(file) as opened:
                copy = changed(opened.convert("RGB"), how, draw)
            copy.save(target := Path(place) / f"planted_{number}.png")
            truth[str(file), str(target)] = how
        val = [file for file in files if file not in set(train)] + [Path(target) for _, target in truth]
        splits = {
            ("set", name): LabelledImages(
                Path("/"), list(map(str, paths)), targets=np.zeros(len(paths), np.int64), class_names=("any",)
            )
            for name, paths in (("train", sorted(train)), ("val", val))
        }
        sides = sides_of(splits, {"set": {CLASSIFICATION: ("any",)}})
        began = time.perf_counter()
        look(sides, looks := Looks(sum(map(len, sides))), SimpleNamespace(update=lambda count: None))
        read = time.perf_counter()
        found = look_at_duplicates(sides, looks, lambda done, of: None)
        ended = time.perf_counter()
        cases = [case for finding in found if finding.name == "leaks" for case in finding.cases]
        named = {(case.places[0].name, case.places[1].name): case for case in cases}
        hits = Counter(how for key, how in truth.items() if key in named)
        of = Counter(truth.values())
        sources = {target: source for source, target in truth}
        others = [case for key, case in named.items() if key not in truth]
        # A copy of an image that had a twin is like the twin, too.
        second = [case for case in others if case.places[1].name in sources]
        before = [case for case in others if case.places[1].name not in sources]
        counts = " | ".join(f"{hits[how]} of {of[how]}" for how in CHANGES)
        seconds = f"{read - began:.0f} + {ended - read:.0f} s"
        print(
            f"| {folder.parent.name} ({len(files)}) | {counts} | {len(before)} | {len(second)} | {seconds} |",
            flush=True,
        )
        if pairs and others:
            shown = [([Image.open(place.name) for place in case.places], case.words) for case in others[:24]]
            contact_sheet(shown).save(pairs / f"{folder.parent.name}.png")


def spoil(pets: Path, out: Path, part: float) -> None:
    """The 598 photos of three breeds with a part of their labels made wrong, and `spoiled.json`, which ones.

    A breed becomes another. A box is moved by half of its side, or is gone, or has another breed. A mask is another
    photo's.
    """
    draw = random.Random(0)
    images = sorted((pets / "images").rglob("*.jpg"))
    names = [f"{path.parent.name}/{path.name}" for path in images]
    breeds = sorted({path.parent.name for path in images})
    wrong = {what: draw.sample(range(len(images)), round(part * len(images))) for what in ("label", "box", "mask")}
    for folder in ("images", "masks", "annotations"):
        (out / folder).mkdir(parents=True)
    entries = {}
    for side in ("train", "val"):
        content = json.loads((pets / "annotations" / f"instances_{side}.json").read_text(encoding="utf-8"))
        of = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        entries |= {of[one["image_id"]]: one for one in content["annotations"]}
        categories = content["categories"]
    table, annotations, listed = ["file,label"], [], []
    for i, path in enumerate(images):
        (out / "images" / path.parent.name).mkdir(exist_ok=True)
        (out / "masks" / path.parent.name).mkdir(exist_ok=True)
        (out / "images" / names[i]).symlink_to(path.resolve())
        breed = (
            path.parent.name if i not in wrong["label"] else draw.choice([b for b in breeds if b != path.parent.name])
        )
        table.append(f"images/{names[i]},{breed}")
        with Image.open(path) as opened:
            width, height = opened.size
        listed.append({"id": i, "file_name": names[i], "width": width, "height": height})
        if entry := entries.get(path.name):
            (x, y, w, h), category = entry["bbox"], entry["category_id"]
            if i in wrong["box"]:
                how = draw.choice(["moved", "gone", "other"])
                if how == "gone":
                    continue
                if how == "moved":
                    x, y, w, h = (x + w / 2, y, w / 2, h) if draw.random() < 0.5 else (x, y, w, h / 2)
                else:
                    category = draw.choice([one["id"] for one in categories if one["id"] != category])
            annotations.append({"id": i, "image_id": i, "category_id": category, "bbox": [x, y, w, h], "iscrowd": 0})
    masks = {path.name: path for path in (pets / "masks").rglob("*.png")}
    for i, name in enumerate(names):
        target = out / "masks" / Path(name).with_suffix(".png")
        mask = Image.open(masks[target.name])
        if i in wrong["mask"]:
            mask = Image.open(draw.choice(list(masks.values()))).resize(mask.size, Image.Resampling.NEAREST)
        mask.save(target)
    (out / "labels.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (out / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")
    told = {what: [names[i] for i in rows] for what, rows in wrong.items()}
    (out / "spoiled.json").write_text(json.dumps(told), encoding="utf-8")


def judge(truth: Path, what: str, corrected: Path) -> None:
    """How many spoiled labels are among the first of corrected_labels.csv, of as many and of twice as many."""
    wrong = {Path(name).name for name in json.loads(truth.read_text(encoding="utf-8"))[what]}
    with corrected.open(encoding="utf-8", newline="") as file:
        order = list(dict.fromkeys(Path(row["file"]).name for row in csv.DictReader(file)))
    first, second = (len(wrong & set(order[: times * len(wrong)])) for times in (1, 2))
    print(f"{what}: {first} of {len(wrong)} spoiled ones among the first {len(wrong)}, {second} among {2 * len(wrong)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["duplicates", "spoil", "judge"])
    parser.add_argument(
        "folders", nargs="+", help="of images; spoil: pets3, a new folder; judge: spoiled.json, label, CSV"
    )
    parser.add_argument("--planted", type=int, default=60)
    parser.add_argument("--part", type=float, default=0.03, help="of the labels that are spoiled")
    parser.add_argument("--pairs", type=Path, help="a folder for pictures of the pairs that were not planted")
    given = parser.parse_args()
    if given.what == "spoil":
        spoil(Path(given.folders[0]), Path(given.folders[1]), given.part)
        return
    if given.what == "judge":
        judge(Path(given.folders[0]), given.folders[1], Path(given.folders[2]))
        return
    print(f"| images | {' | '.join(CHANGES)} | there before | copies of twins | reading + comparing |")
    print("|" + "---|" * (len(CHANGES) + 4))
    for folder in given.folders:
        duplicates(Path(folder), given.planted, given.pairs)


if __name__ == "__main__":
    main()
