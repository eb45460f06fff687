"""Who may import whom, what never reaches Lightning or Hydra, and that start-up stays light."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mnv2_tasks"
MODULES = {
    ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

GROUND = {"version", "errors", "samples", "files", "machine", "memory", "processes"}
SHOWN = {"metrics", "visual"}
NETWORK = {"kinds", "blocks", "freezing", "backbone", "model", "complexity", "heads", "weights"}
# Commands, which may import anything, and which nobody imports.
COMMANDS = {
    "__main__",
    "train",
    "evaluate",
    "calibrate",
    "shards",
    "export.__main__",
    "export.benchmark",
    "predict.__main__",
    "doctor.__main__",
}
# The promised `python -m mnv2_tasks.<name>` of commands that lie elsewhere: two lines, which may import commands.
DOORS = {"analysis", "benchmark", "budget", "compare", "cost", "ledger", "search", "study"}
# Room, or module of a room -> the rooms and modules that it may import, besides those of its own room.
ALLOWED = {
    "": {"version", "backbone", "export", "predict"},  # the front door: load, load_backbone
    "errors": set(),
    **dict.fromkeys(GROUND - {"errors"}, {"errors"}),
    "files": {"errors"},
    **dict.fromkeys(SHOWN, GROUND),
    "kinds": GROUND | SHOWN,
    "datasets": GROUND | {"kinds"},
    "blocks": GROUND,
    "freezing": GROUND,
    "backbone": GROUND | {"blocks", "freezing"},
    "heads": GROUND | SHOWN | {"kinds", "backbone", "blocks"},
    "model": GROUND | {"backbone", "heads"},
    "complexity": GROUND | {"model"},
    "weights": GROUND | {"kinds", "backbone", "blocks", "heads", "model"},
    "training": GROUND | SHOWN | NETWORK | {"datasets"},
    "assembly": GROUND | SHOWN | NETWORK | {"datasets", "training"},
    "export": GROUND | SHOWN | NETWORK | {"datasets.transforms"},
    "predict": GROUND | SHOWN | NETWORK | {"datasets.transforms", "export"},
    "doctor": GROUND | SHOWN | NETWORK | {"datasets"},
    "lab": GROUND | SHOWN | NETWORK | {"assembly", "training"},
}
# What the rules above do not allow, and why it is so for now.
EXCEPTIONS = {
    # A network is built from a config by Hydra's instantiate, for files as for training.
    ("export.hub", "assembly.network"),
    ("predict.predictor", "assembly.network"),
    # Pictures to predict on are read and listed as those to train on.
    ("predict.pictures", "datasets.reading.images"),
    ("predict.pictures", "datasets.reading.listing"),
    ("predict.films", "datasets.reading.listing"),
    ("predict.predictor", "datasets.reading.depth"),
    ("predict.predictor", "datasets.reading.images"),
}
LIGHTNING, HYDRA = {"pytorch_lightning", "lightning", "lightning_fabric"}, {"hydra", "omegaconf"}
# Rooms -> what they never import, not even through others.
NEVER = {
    **dict.fromkeys((*GROUND, *SHOWN, *NETWORK, "datasets", "doctor"), LIGHTNING | HYDRA),
    **dict.fromkeys(("export", "predict"), LIGHTNING),  # Hydra builds their networks, see EXCEPTIONS
    **dict.fromkeys(("training", "lab"), set()),
}
# (room, the module that does import it all the same, what), and why.
REACHED = {
    ("datasets", "datasets.datamodule", "pytorch_lightning"),  # it is Lightning's LightningDataModule
    # Whether a file's callbacks are Lightning's is asked of Lightning, where a file has any.
    ("weights", "weights.trust", "pytorch_lightning"),
    ("export", "weights.trust", "pytorch_lightning"),
    ("predict", "weights.trust", "pytorch_lightning"),
}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def is_command(module: str) -> bool:
    return module in COMMANDS or module in DOORS


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, anywhere in it: of ours "<dotted name below the package>" with a dot before it."""
    names: set[str] = set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    unseen = {  # what only a type checker imports
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in branch.body
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            names |= {_ours(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports are absolute"
            for alias in node.names:
                if (node.module, alias.name) == ("mnv2_tasks", "__version__"):
                    continue
                whole = _ours(f"{node.module}.{alias.name}")
                names.add(whole if whole.removeprefix(".") in MODULES else _ours(node.module))
    return frozenset(names)


def _ours(name: str) -> str:
    return f".{name.removeprefix('mnv2_tasks').removeprefix('.')}" if name.split(".")[0] == "mnv2_tasks" else name


def own_imports(module: str) -> set[str]:
    return {name.removeprefix(".") for name in imports(module) if name.startswith(".")}


def reached(module: str) -> set[str]:
    """The modules of the package that a module imports, by itself and through others; itself too."""
    seen, waiting = set(), [module]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += own_imports(name)
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_import_directions(module):
    if is_command(module):
        return
    rule = ALLOWED.get(room_of(module))
    assert rule is not None, f"{room_of(module)} has no rule in ALLOWED"
    for name in own_imports(module):
        assert not is_command(name), f"{module} imports the command {name}"
        inside = room_of(name) == room_of(module) and module
        known = inside or (module, name) in EXCEPTIONS or name in rule or room_of(name) in rule
        assert known, f"{module} may not import {name}"


@pytest.mark.parametrize("module", MODULES)
def test_lightning_and_hydra_stay_where_they_belong(module):
    room = room_of(module)
    if is_command(module) or room in ("", "assembly"):
        return
    for name in reached(module):
        outside = {other.partition(".")[0] for other in imports(name) if not other.startswith(".")}
        for package in outside & NEVER[room]:
            assert (room, name, package) in REACHED, f"{module} reaches {package} through {name}"
    direct = {other.partition(".")[0] for other in imports(module)} & HYDRA
    assert not direct, f"{module} imports {direct}, as assembly alone may"


def test_no_file_imports_itself_through_others():
    """At the top of files: what a function imports is there by then."""
    graph = {}
    for module, path in MODULES.items():
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = {(node.module, alias.name) for node in top if isinstance(node, ast.ImportFrom) for alias in node.names}
        ours = {_ours(f"{parent}.{name}").removeprefix(".") for parent, name in names} | {
            _ours(str(parent)).removeprefix(".") for parent, _ in names if str(parent).startswith("mnv2_tasks.")
        }
        graph[module] = {name for name in ours if name in MODULES and MODULES[name].name != "__init__.py"} - {module}
    TopologicalSorter(graph).prepare()  # CycleError names them


def test_commands_are_imported_by_doors_alone():
    for module in MODULES:
        commands = {name for name in own_imports(module) if is_command(name)}
        assert not commands or module in DOORS, f"{module} imports {commands}"


def test_every_exception_is_one():
    for module, name in EXCEPTIONS:
        assert name in own_imports(module)
    for _, module, package in REACHED:
        assert package in {other.partition(".")[0] for other in imports(module)}
    assert all(name in MODULES for name in (*COMMANDS, *DOORS))


def test_doors_hold_nothing_else():
    for name in DOORS:
        first, *others, last = ast.parse(MODULES[name].read_text(encoding="utf-8")).body
        assert isinstance(first, ast.Expr) and isinstance(last, ast.If), name
        assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in others), name


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_in_their_file(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "mnv2_tasks":
            for alias in node.names:
                assert not _is_private(alias.name), f"{module} imports {alias.name} of {node.module}"
                if _ours(f"{node.module}.{alias.name}").removeprefix(".") in MODULES:
                    modules.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert not _is_private(node.attr), f"{module} uses {node.value.id}.{node.attr}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_two_files_have_one_name():
    names = Counter(p.stem for m, p in MODULES.items() if p.stem not in ("__init__", "__main__") and m not in DOORS)
    assert not [name for name, count in names.items() if count > 1]


def test_every_folder_says_what_it_is():
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        assert (folder / "__init__.py").is_file(), folder
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)) and len(text.splitlines()) <= 100, folder


def test_no_catch_all_files():
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in ("utils", "helpers", "common", "misc", "registry")]


def test_no_test_file_imports_another():
    for path in Path(__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) test_", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_command_line_starts_without_torch():
    code = "import mnv2_tasks.assembly.command, mnv2_tasks.evaluate, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_models_and_their_files_load_without_lightning_and_hydra():
    pure = [m for m in MODULES if room_of(m) in NETWORK | SHOWN | GROUND and m]
    code = f"import sys, {', '.join(f'mnv2_tasks.{module}' for module in pure)}\n"
    code += "sys.exit(' '.join({'pytorch_lightning', 'hydra'} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
