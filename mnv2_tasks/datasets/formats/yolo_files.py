"""What YOLO's text files say: data.yaml, darknet's .data, lists of images, class names."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnv2_tasks.datasets.reading.sides import SPELLINGS
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import read_text

LARGEST = 2**26  # bytes of a text file: more is none of these
LARGEST_YAML = 2**20  # that of a thousand classes has 30 kB
_EMPTY = ("", "~", "null", "none")


@dataclass(frozen=True)
class Description:
    """A data.yaml, or darknet's .data file."""

    file: Path
    path: str  # what the sides' places are relative to; "" for the file's own folder
    sides: dict[str, list[str]]  # train, val, test -> folders and lists of images, as written
    names: tuple[str, ...]  # () where they are not told
    count: int | None  # of classes
    names_file: str  # "" where there is none
    keypoints: int  # numbers that follow the box in a line
    download: bool = False  # whether it says how to download the data, which is never done

    @property
    def is_data(self) -> bool:
        """Whether it describes a data set; other tools keep their settings in such files, too."""
        return bool(self.sides or self.names or self.names_file)


def read_description(file: Path) -> Description:
    if file.suffix.lower() == ".data":
        return _darknet(file)
    return _data_yaml(file)


def _darknet(file: Path) -> Description:
    """Lines of `key = value`: classes, train, valid, names."""
    lines = read_lines(file, fix="give lines of key = value", most=LARGEST_YAML)
    pairs = [(key.strip().lower(), value.strip()) for key, _, value in (line.partition("=") for line in lines)]
    values = {key: value for key, value in pairs if value and not key.startswith("#")}
    return Description(
        file,
        path="",
        sides={side: [values[key]] for side, key in _side_keys(values, file).items()},
        names=(),
        count=_number(values["classes"], "classes", file) if "classes" in values else None,
        names_file=values.get("names", ""),
        keypoints=0,
    )


def _data_yaml(file: Path) -> Description:
    """Only nodes are read: nothing is built or called, an alias costs nothing, and `no` is a name, not False."""
    import yaml

    text = read_text(file, fix="correct it, or name the right one as data.file", most=LARGEST_YAML)
    try:
        top = yaml.compose(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not YAML: {reason}; correct or export the file again") from error
    nodes: dict[str, yaml.Node] = {}
    for key, value in top.value if isinstance(top, yaml.MappingNode) else ():
        name = str(key.value).strip() if isinstance(key, yaml.ScalarNode) else ""
        if name in nodes:
            raise InputError(
                f"{file}: line {key.start_mark.line + 1}: {quote(name)} is there twice; keep one of the two"
            )
        nodes[name] = value

    def scalars(key: str, wanted: str) -> list[str]:
        """A scalar or a list of some; [] for none."""
        node = nodes.get(key)
        entries = node.value if isinstance(node, yaml.SequenceNode) else [] if node is None else [node]
        if not all(isinstance(entry, yaml.ScalarNode) for entry in entries):
            raise InputError(f"{file}: {key} is not {wanted}; correct it")
        values = [entry.value.strip() for entry in entries]
        return [] if len(values) == 1 and values[0].lower() in _EMPTY else values

    path = scalars("path", "a folder")
    sides = {
        side: scalars(key, "a folder, a list of images or several") for side, key in _side_keys(nodes, file).items()
    }
    names: list[str] = []
    if isinstance(node := nodes.get("names"), yaml.MappingNode):
        pairs = [(key.value, value.value) for key, value in node.value]
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise InputError(f"{file}: names is neither a list of names nor number: name; correct it")
        numbers = [_number(key, "names", file) for key, _ in pairs]
        if sorted(numbers) != list(range(len(numbers))):
            raise InputError(
                f"{file}: names has the numbers {', '.join(map(str, sorted(numbers)))[:60]}; number the "
                f"{len(numbers)} classes from 0 to {len(numbers) - 1}, each once"
            )
        names = [name.strip() for _, (_, name) in sorted(zip(numbers, pairs, strict=True))]
    elif "names" in nodes:
        names = scalars("names", "a list of names or number: name")
        if names and isinstance(node, yaml.ScalarNode):
            raise InputError(f"{file}: names is {quote(names[0])}; give a list, as in names: [cat, dog]")
    keypoints = [_number(value, "kpt_shape", file) for value in scalars("kpt_shape", "two numbers")]
    if keypoints and (len(keypoints) != 2 or keypoints[1] not in (2, 3) or not 0 < keypoints[0] < 10_000):
        raise InputError(f"{file}: kpt_shape is {keypoints}; give [keypoints, 2 or 3 numbers of each]")
    count = scalars("nc", "a number")
    return Description(
        file,
        path=path[0] if path else "",
        sides={side: places for side, places in sides.items() if places},
        names=tuple(names),
        count=_number(count[0], "nc", file) if count else None,
        names_file="",
        keypoints=math.prod(keypoints) if keypoints else 0,
        download="download" in nodes,
    )


def _side_keys(keys: Iterable[str], file: Path) -> dict[str, str]:
    """{side: the key that is its name}; no other words may stand around it, unlike in file names: `val_split: 0.2`."""
    sides: dict[str, str] = {}
    for side, words in SPELLINGS.items():
        named = [key for key in keys if key.lower() in words]
        if len(named) > 1:
            raise InputError(f"{file}: {' and '.join(named)} both are its {side} side; keep one of them")
        if named:
            sides[side] = named[0]
    return sides


def read_lines(file: Path, *, fix: str, most: int) -> list[str]:
    """A text's lines, whatever system ends them; not `splitlines`, which also parts at characters in names."""
    return read_text(file, fix=fix, most=most).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _number(text: str, key: str, file: Path) -> int:
    if not text.strip().isdecimal() or len(text.strip()) > 6:
        raise InputError(f"{file}: {key}: {quote(text)} is no number of it; correct it")
    return int(text)


def read_list(file: Path) -> list[tuple[int, str]]:
    """(line number from 1, what is written there) of the lines that are not empty or comments."""
    lines = read_lines(file, fix="give a list of images, one a line", most=LARGEST)
    entries = [(number, line.strip().strip("\"'")) for number, line in enumerate(lines, 1)]
    return [(number, line) for number, line in entries if line and not line.startswith("#")]


def read_names(file: Path) -> tuple[str, ...]:
    """A class a line, in the order of the numbers."""
    names = read_lines(file, fix="give a class name a line", most=LARGEST_YAML)
    while names and not names[-1].strip():
        names.pop()
    if blank := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise InputError(f"{file}: line {blank[0]} is empty; give a class name a line, in the order of their numbers")
    return tuple(name.strip() for name in names)
