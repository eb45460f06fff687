"""Who may import whom, and that start-up stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mnv2_tasks"
SHOWN = ("metrics", "draw", "plots")
# What a module of the package may import from the package.
ALLOWED = {
    "errors": set(),
    "foreign": {"errors"},
    "children": set(),
    "machine": set(),
    "trust": {"errors"},
    "blocks": {"errors"},
    "backbone": {"blocks", "errors"},
    "weights": {"backbone", "errors", "foreign"},
    **dict.fromkeys(SHOWN, {"errors", "segmentation", *SHOWN}),
    "segmentation": {"errors"},
    "kinds": {"errors", "kinds", "segmentation", *SHOWN},
    "heads": {"backbone", "blocks", "errors", "heads", "kinds", "segmentation", *SHOWN},
    "adapters": {"backbone", "errors"},
    "balance": {"errors"},
    "joint": {"errors", "foreign"},
    "model": {"backbone", "errors", "foreign", "heads", "trust", "weights"},
    "cost": {"backbone", "blocks", "heads"},
    "datasets": {"datasets", "errors", "foreign", "kinds"},
    "schedules": set(),
    "divergence": {"errors"},
    "folders": {"errors"},
    "tasks": {"model", "balance", "divergence", "errors", "heads"},
}
PURE = (
    "errors",
    "foreign",
    "blocks",
    "backbone",
    "weights",
    "kinds",
    "heads",
    "model",
    "cost",
)  # no Lightning: for export and inference


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_directions(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = imports(path)
    used = {name.split(".")[1] for name in found if name.startswith("mnv2_tasks.")}
    if room in ALLOWED:
        assert used <= ALLOWED[room], f"{room} may not import {used - ALLOWED[room]}"
    if room in PURE:
        assert not any(name.startswith(("pytorch_lightning", "lightning")) for name in found)
        assert not any(name.startswith("hydra") for name in found) or room == "model"


def test_no_catch_all_files():
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in ("utils", "helpers", "common", "misc", "registry")]


def test_command_line_starts_without_torch():
    code = "import mnv2_tasks.cli, mnv2_tasks.evaluate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
