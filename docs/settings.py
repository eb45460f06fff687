"""Writes docs/settings.md from what stands in configs/: `python docs/settings.py`.

A setting's line is the comment above and beside it; where it has none, what the docstring of its class says of the
argument. A file is told by the comment that opens it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PAGE = ROOT / "docs" / "settings.md"

OPENING = """<!-- Written by `python docs/settings.py` from configs/: change the comments there. -->
# Settings

Every setting is a `key=value` on the command line; `python train.py --cfg job --resolve` prints all of them, and a typo
is answered with the closest name. Groups are chosen as `task=ssdlite` or, several at once, `task=[classifier,ssdlite]`.
`head.x` is the head's x where there is one head, `head.<task>.x` where there are several; so `data.x` and
`data.<name>.x`. A run that goes on (`resume=<run folder> key=value`) takes changed settings as well: each acts, or is
refused in a line that says why.

Below, a setting stands with its default. The usual ones come first, then all of them, by the files of configs/.
"""
# (file of configs/, or a group; settings): the test of changes on a resumed run tries each.
USUAL: tuple[tuple[str, list[str]], ...] = (
    ("common", ["size"]),
    ("backbone/mobilenet_v2", ["width"]),
    ("block", []),
    ("backbone", []),
    ("block/inverted_residual", ["linear", "shortcut"]),
    ("backbone/mobilenet_v2", ["expansion", "match", "output_stride", "weights", "freeze", "freeze_to", "freeze_norm"]),
    ("backbone/mobilenet_v2", ["divisor", "stem_stride", "in_channels", "zero_init_residual"]),
    ("optim/adamw", ["backbone_lr", "optimizer.lr", "optimizer.weight_decay"]),
    ("task/ssdlite", ["boxes", "first_level", "sources", "least", "loss"]),
    ("task/deeplabv3", ["loss", "aspp", "auxiliary", "skips", "scales", "flip", "window"]),
    ("task/classifier", ["class_weights", "label_smoothing"]),
    ("common", ["loader.balanced", "loader.mixup", "loader.cutmix"]),
    ("augment/classification", ["flip"]),
    ("augment/detection", ["zoom_out"]),
    ("augment/segmentation", ["flip"]),
    ("common", ["augment.joint.flip", "fit", "loader.batch_size"]),
    ("data/imagefolder", ["classes"]),
    ("optim", []),
    ("balance", []),
    ("trainer/default", ["max_epochs", "precision", "gradient_clip_val", "devices", "strategy"]),
    ("train", ["early_stopping", "ema"]),
    ("common", ["seed", "examples"]),
    ("callbacks", []),
    ("logger", []),
)
GROUPS = ("task", "data", "backbone", "block", "optim", "balance", "trainer", "logger", "callbacks")
RECIPES = ("study", "search", "experiment")
COMMANDS = (
    "evaluate",
    "calibrate",
    "predict",
    "export",
    "benchmark",
    "analysis",
    "budget",
    "shards",
    "compare",
    "doctor",
)
HIDDEN = {"defaults", "hydra", "suggests", "_target_", "_partial_"}
TAKEN = {
    "augment": "how training images are changed, as tasks bring it",
    "preset": "what goes with a data set: of the drawn scenes; ~preset leaves it out",
}


class Setting(NamedTuple):
    key: str  # below the package of its file
    name: str  # on the command line
    default: str
    text: str  # what it does; "" where nothing says so


class File(NamedTuple):
    name: str  # such as "task/ssdlite"
    opening: list[str]  # lines of the comment on its top
    target: str  # the import path of what it makes, if anything
    settings: list[Setting]
    suggests: str  # such as "size=320, batch_size=32", which a setting on the command line overrules


@cache
def read(name: str) -> File:
    """A file of configs/ and what its comments tell."""
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    comments = [line[2:] for line in takewhile(lambda line: line.startswith("#"), lines)]
    package = _package(name)
    if comments and comments[0].startswith("@package"):
        package = comments.pop(0).partition(" ")[2].replace("_global_", "")
    root = yaml.compose(text)
    settings = [] if root is None else list(_settings(root, lines, package, ""))
    target = _target(root) if root is not None and "/" in name else ""
    made = (yaml.safe_load(text) or {}).get("suggests", {})
    suggested = [f"`{key}={value}`" for kind in made.values() for own in kind.values() for key, value in own.items()]
    return File(name, comments, target, settings, ", ".join(suggested))


def _package(name: str) -> str:
    group = name.rpartition("/")[0]
    return {"": "", "block": "backbone.block"}.get(group, group)


def _settings(node: yaml.MappingNode, lines: list[str], package: str, prefix: str) -> Iterator[Setting]:
    """The settings of a mapping and of the mappings in it, in their order."""
    about = _arguments(_own_target(node))
    for key_node, value in node.value:
        key = f"{prefix}{key_node.value}"
        if key_node.value in HIDDEN or "/" in key_node.value:
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _settings(value, lines, package, f"{key}.")
            continue
        start, end = value.start_mark, value.end_mark
        beside = ""
        if start.line == end.line:
            default, beside = lines[start.line][start.column : end.column], lines[start.line][end.column :]
        else:
            plain = yaml.safe_load(yaml.serialize(value))
            default = yaml.safe_dump(plain, default_flow_style=True, width=10**6).strip()
        own = [*_above(lines, key_node.start_mark.line), beside.partition("#")[2].strip()]
        said = " ".join(filter(None, own)) or about.get(key_node.value, "")
        yield Setting(key, _name(f"{package}.{key}" if package else key), default, said.removesuffix("."))


def _above(lines: list[str], line: int) -> list[str]:
    """The comment right above a line, unless it opens the file."""
    found: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip()[2:])
    return found if line else []


def _name(path: str) -> str:
    """As it is typed: `head.x` of a lone head, `data.x` of a lone data set."""
    return re.sub(r"^(head)s\.\w+\.|^(data)\.\w+\.", lambda match: f"{match[1] or match[2]}.", path)


def _own_target(node: yaml.MappingNode) -> str:
    return next((str(value.value) for key, value in node.value if key.value == "_target_"), "")


def _target(node: yaml.Node) -> str:
    """The `_target_` of a mapping, or of the last mapping in it: of a task the head's, of data the format's."""
    if not isinstance(node, yaml.MappingNode):
        return ""
    return _own_target(node) or (_target(node.value[-1][1]) if node.value else "")


@cache
def _arguments(target: str) -> dict[str, str]:
    """{argument: what the docstring's "Args:" says of it} of a class or function of this package."""
    arguments: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", _section(_docstring(target), "Args:")):
        names, _, text = entry.partition(":")
        for name in names.split(", "):
            arguments[name.strip()] = " ".join(text.split())
    return arguments


def _docstring(target: str) -> str:
    module, _, name = target.rpartition(".")
    path = ROOT / f"{module.replace('.', '/')}.py"
    if not module.startswith("mnv2_tasks.") or not path.exists():
        return ""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    made = (node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name)
    return next((ast.get_docstring(node) or "" for node in made), "")


def _section(text: str, title: str) -> str:
    """The indented lines under a title, without their indent."""
    lines = takewhile(lambda line: not line or line.startswith("    "), text.partition(f"{title}\n")[2].splitlines())
    return "\n".join(line[4:] for line in lines if line)


@cache
def groups() -> dict[str, str]:
    """{group: what it chooses}, of the help of `train`."""
    header = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))["hydra"]["help"]["header"]
    return dict(re.findall(r"^  (\w+) {2,}(.+)$", header, re.MULTILINE)) | TAKEN


def files_of(group: str) -> list[str]:
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in (CONFIGS / group).glob("*.yaml"))


def _prose(text: str) -> str:
    """A `<placeholder>` outside of code is no tag."""
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(text.split("`")))


def _row(setting: Setting, text: str = "") -> str:
    about = _prose(text or setting.text).replace("|", "\\|")
    if suggested := re.fullmatch(r"\$\{suggested:\w+(?:,(.+))?\}", setting.default):
        otherwise = f", else {suggested[1]}" if suggested[1] else ""
        return f"| `{setting.name}=` | {about}; not given: as tasks and data sets suggest{otherwise} |"
    return f"| `{setting.name}={setting.default}` | {about} |"


def usual() -> list[str]:
    """The rows of the first table."""
    rows = []
    for name, keys in USUAL:
        if not keys:
            choices = [choice.rpartition("/")[2] for choice in files_of(name)]
            rows.append(f"| `{name}={choices[0]}`, {', '.join(f'`{c}`' for c in choices[1:])} | {groups()[name]} |")
            continue
        settings = {setting.key: setting for setting in read(name).settings}
        task = name.removeprefix("task/") if name.startswith("task/") else ""
        for key in keys:
            setting = settings.get(f"heads.{task}.{key}") or settings.get(f"data.{name[5:]}.{key}") or settings[key]
            about = f"{task}: {setting.text}" if setting.name.startswith("head.") else setting.text
            rows.append(_row(setting, about))
    return rows


def _opening(lines: list[str]) -> list[str]:
    """A file's comment as Markdown: lines that are indented are commands."""
    page: list[str] = []
    for line in lines:
        indented = line.startswith("  ")
        if page and indented != page[-1].startswith("    "):
            page.append("")
        page.append(f"  {line}" if indented else _prose(line))
    return [*page, ""] if page else []


def section(name: str, title: str) -> list[str]:
    """A file: what it is, what it changes of others, and a table of its own settings."""
    file = read(name)
    told = {setting.name for other in everything() if other != name for setting in read(other).settings if setting.text}
    own = [one for one in file.settings if one.text or one.name not in told or one.name.startswith("data.")]
    changed = [f"`{setting.name}={setting.default}`" for setting in file.settings if setting not in own]
    page = [title, "", *_opening(file.opening)]
    if file.target:
        page += [f"Makes `{file.target}`.", ""]
    if file.suggests:
        page += [f"Suggests {file.suggests}.", ""]
    if changed:
        page += [f"Brings {', '.join(changed)}.", ""]
    if own:
        page += ["| setting | what it does |", "|---|---|", *map(_row, own), ""]
    return page


@cache
def everything() -> tuple[str, ...]:
    return (
        "train",
        "common",
        "study_runs",
        "search_runs",
        *COMMANDS,
        *(name for group in (*GROUPS, *TAKEN) for name in files_of(group)),
    )


def page() -> str:
    lines = [OPENING, "## The usual ones", "", "| setting | what it does |", "|---|---|", *usual(), ""]
    lines += section("train", "## Training") + section("common", "## Training and evaluation")
    for group in (*GROUPS, *TAKEN):
        lines += [f"## {group}", "", f"`{group}=`: {groups()[group]}", ""]
        for name in files_of(group):
            lines += section(name, f"### `{group}={name.rpartition('/')[2]}`")
    lines += section("study_runs", "## Every study")
    lines += section("search_runs", "## Every search")
    for group in RECIPES:
        lines += [f"## {group}", "", f"`{group}=`: {groups()[group]}", ""]
        for name in files_of(group):
            lines += [f"### `{group}={name.rpartition('/')[2]}`", "", *_opening(read(name).opening)]
    for name in COMMANDS:
        lines += section(name, f"## `mnv2 {name}`")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
