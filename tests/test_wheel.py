"""What `pip install` of a wheel gives: one command that works in any folder, without a clone."""

import json
import os
import site
import subprocess
import venv
import zipfile

import pytest
from places import ROOT

from mnv2_tasks.__main__ import VERBS

PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a new environment that has pip alone; what is made here lies two folders above it."""
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place / "venv", with_pip=True)
    (path,) = place.glob("venv/*/python")
    return path


@pytest.fixture(scope="module")
def wheel(python):
    place = python.parents[2]
    subprocess.run([python, *PIP, "wheel", "--no-deps", "--wheel-dir", place, ROOT], check=True)
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def mnv2(python, wheel):
    """mnv2("train", ...) -> what the command of an environment prints that has the wheel, and this one's libraries."""
    subprocess.run([python, *PIP, "install", "--no-deps", wheel], check=True)
    packages = next(wheel.parent.glob("venv/**/site-packages"))
    # The paths alone: what is installed here for editing stays unseen.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*arguments: str) -> str:
        command = [python.with_name("mnv2"), *arguments]
        done = subprocess.run(command, cwd=wheel.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_a_wheel_trains_and_predicts_in_any_folder(mnv2, tmp_path):
    tiny = "size=64 backbone.width=0.35 data.train=80 data.val=8 loader.batch_size=8 trainer.max_epochs=1".split()
    mnv2("train", *tiny, f"runs={tmp_path}", "name=a", "examples=2")
    assert json.loads((tmp_path / "ssdlite" / "a" / "metrics.json").read_text())["epochs"] == 1
    best = tmp_path / "ssdlite" / "a" / "checkpoints" / "best.ckpt"
    source = tmp_path / "ssdlite" / "a" / "examples.png"
    out = mnv2("predict", f"model={best}", f"source={source}", f"runs={tmp_path}", "name=b")
    assert (tmp_path / "predict" / "b").is_dir(), out


def test_a_wheel_has_every_config(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"mnv2_tasks/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in names


def test_usage_has_every_command(mnv2):
    usage = mnv2("--help")
    assert all(f"\n  {verb} " in usage for verb in VERBS)
    for verb in VERBS:
        assert (ROOT / "mnv2_tasks" / f"{verb}.py").exists() or (ROOT / "mnv2_tasks" / verb / "__main__.py").exists()


def test_help_of_training_opens_with_what_it_is_and_every_group(mnv2):
    out = mnv2("train", "--help")
    assert out.startswith("mnv2 train")
    groups = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir()]
    groups = set(groups) - {"hydra", "augment"}  # tasks bring the latter
    assert [group for group in groups if f"\n  {group} " not in out] == []
