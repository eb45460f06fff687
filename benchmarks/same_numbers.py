"""Whether a change of the code changes any number: `python benchmarks/same_numbers.py <commit>`.

One seeded run of each task, and of several together, on drawn scenes with the default settings, by the code of <commit>
and by what is checked out here, in the same environment. Every column of metrics.csv but the timings and every entry of
metrics.json must be equal to the last digit. Exit code 1 where one is not.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = {  # name -> what is typed
    "classifier": ["task=classifier"],
    "ssdlite": ["task=ssdlite"],
    "faster_rcnn": ["task=faster_rcnn"],
    "deeplabv3": ["task=deeplabv3"],
    "unet": ["task=unet"],
    "joint": ["task=[classifier,ssdlite,deeplabv3]"],
    "gradnorm": ["task=[ssdlite,deeplabv3]", "balance=gradnorm"],
}
SHORT = ["data.train=48", "data.val=16", "loader.batch_size=8", "trainer.max_epochs=2", "examples=0"]
TIMED = ("seconds", "step_ms", "images_per_second", "wall_seconds", "latency_ms")
TOLD = ("contents", "environment")  # no numbers


def numbers(code: Path, run: list[str], runs: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of metrics.csv and the contents of metrics.json of one run, without what is timed."""
    command = [sys.executable, "train.py", *run, *SHORT, "seed=1", f"runs={runs}", "name=one"]
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {code} ended with {done.returncode}:\n{done.stdout.decode()[-2000:]}")
    (folder,) = runs.glob("*/one")
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [
            {name: value and float(value) for name, value in row.items() if name not in TIMED}
            for row in csv.DictReader(file)
        ]
    results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return rows, {name: value for name, value in results.items() if name not in (*TIMED, *TOLD)}


def differences(one: Any, other: Any, place: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(str(key), one.get(key), other.get(key)) for key in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(one, other, strict=True))]
    else:
        same = one == other or (one != one and other != other)  # nan: as a mean of no objects
        return [] if same else [f"{place}: {one} -> {other}"]
    return [text for key, before, after in pairs for text in differences(before, after, f"{place}/{key}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="whose numbers are to be kept")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    options = parser.parse_args()
    changed = 0
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, options.commit], cwd=ROOT, check=True)
        try:
            for name in options.only:
                one = numbers(before, RUNS[name], Path(scratch) / f"{name}_before")
                other = numbers(ROOT, RUNS[name], Path(scratch) / f"{name}_after")
                texts = differences(one[0], other[0], "metrics.csv") + differences(one[1], other[1], "metrics.json")
                count = sum(map(len, one[0]))
                print(f"{name}: {count} numbers of {len(one[0])} epochs, {len(texts)} changed", flush=True)
                for text in texts[:10]:
                    print(f"  {text}")
                changed += len(texts)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    sys.exit(1 if changed else 0)


if __name__ == "__main__":
    main()
