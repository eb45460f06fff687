"""Text files are UTF-8 whatever the locale, in every place that opens one."""

import ast

from places import ROOT

SOURCES = [
    *ROOT.glob("mnv2_tasks/**/*.py"),
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("examples/*.py"),
    ROOT / "train.py",
]
OTHERS = ("Image", "av", "os")  # whose open() is of something else


def opens_text(call):
    """Whether a call opens a file as text: path.read_text(), path.write_text(), path.open(), open(), without a b."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)  # a function of ours knows the encodings itself
    if name != "open" or getattr(getattr(call.func, "value", None), "id", None) in OTHERS:
        return False
    modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    return not any(isinstance(mode, str) and len(mode) <= 3 and "b" in mode for mode in modes)


def test_every_text_file_is_opened_as_utf8():
    calls = [
        (path.relative_to(ROOT), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text(node)
    ]
    bare = [f"{path}:{call.lineno}" for path, call in calls if "encoding" not in {k.arg for k in call.keywords}]
    assert len(calls) > 40 and not bare
