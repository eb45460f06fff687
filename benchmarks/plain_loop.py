"""What the benchmarks share: a plain training loop, its measurements, variants in fresh processes, and their table."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mnv2_tasks.assembly.overrides import CONFIGS, expand
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, fail, one_line

Results = dict[str, dict[str, Any]]


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The config of train.py for these settings."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = settle(compose("train", expand(list(overrides))))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(" ".join(str(error).split())) from error
    if config["trainer"]["precision"] != "32-true" or config["trainer"]["accumulate_grad_batches"] != 1:
        raise InputError("trainer: use precision=32-true and accumulate_grad_batches=1")
    return config


def train(model: nn.Module, data: Any, config: dict[str, Any], *, steps: int | None) -> Any:
    """Train to the end, or for `steps`; returns the averaged model, and the time and memory that it took."""
    from mnv2_tasks.training.callbacks import warmed_average
    from mnv2_tasks.training.module import parameter_groups

    (task,), (loader,) = data.tasks, data.loaders("train", training=True).values()
    epochs, clip = config["trainer"]["max_epochs"], config["trainer"]["gradient_clip_val"]
    total = epochs * len(loader)
    optimizer = instantiate(config["optim"]["optimizer"])(
        parameter_groups(p for p in model.parameters() if p.requires_grad)
    )
    learned = [value for group in optimizer.param_groups for value in group["params"]]
    schedule = instantiate(config["optim"]["schedule"])(optimizer, steps=total)
    average = warmed_average(config["ema"] or 0.0)  # as train.py does
    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    steps, took, seen, began, spent = min(steps or total, total), [], 0, time.monotonic(), cpu_seconds()
    model.train()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        losses: list[float] = []
        for images, targets in loader:
            start = time.perf_counter()
            loss = sum(model(images, targets[task]).values())
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(learned, clip)
            optimizer.step()
            took.append(1000 * (time.perf_counter() - start))
            schedule.step()
            averaged.update_parameters(model)
            seen += len(images)
            losses.append(loss.item())
            if len(took) == steps:
                break
        seconds = time.monotonic() - began
        left = seconds / len(took) * (steps - len(took)) / 60
        mean, speed = sum(losses) / len(losses), f"{median(took):.0f} ms a step, {left:.1f} min left"
        print(f"  epoch {epoch + 1}/{epochs}: loss {mean:.4f}, {speed}", flush=True)
        if len(took) == steps:
            break
    results = {"step_ms": median(took), "train_seconds": seconds, "cpu_seconds": cpu_seconds() - spent}
    results |= {"peak_mib": peak_mib(), "images_seen": seen}
    return averaged.module, results


def cpu_seconds() -> float:
    """Of this process and the workers that it has seen end; running ones are not counted yet."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mib() -> float:
    """The most memory that this process has held; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parser(about: str, variants: Sequence[str]) -> argparse.ArgumentParser:
    """The arguments that the benchmarks share; --child is for the processes of `run_variants`."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("overrides", nargs="*", help="settings as for train.py: key=value")
    made.add_argument("--only", choices=variants)
    made.add_argument("--test", action="store_true", help="evaluate on the test side too")
    made.add_argument("--out", type=Path, metavar="FILE.json")
    made.add_argument("--child", choices=variants, help=argparse.SUPPRESS)
    return made


def checked_sides(data: Any, *, test: bool) -> list[str]:
    """The sides to evaluate; what is wrong with the data is said before the training."""
    sides = ["val", "test"] if test else ["val"]
    for side in sides:
        data.loaders(side)
    return sides


def told(main: Callable[[], None]) -> None:
    """Run `main`; what people can mend is told in one line, exit 2."""
    try:
        main()
    except Exception as error:
        if line := one_line(error):
            fail(line)
        raise


def run_variants(variants: Sequence[str], ratios: Sequence[tuple[str, str]], *, out: Path | None) -> Results:
    """Run this script again for each variant, in a fresh process with --child; then their ratios."""
    results: Results = {}
    for variant in variants:
        print(f"== {variant}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            command = [sys.executable, *sys.argv, f"--child={variant}", f"--out={path}"]
            if code := subprocess.run(command).returncode:
                raise SystemExit(code)
            results[variant] = json.loads(path.read_text(encoding="utf-8"))
        for above, below in ratios:
            if above in results and below in results:
                results[f"{above} / {below}"] = _ratio(results[above], results[below])
        if out:  # after each, so that a later fault costs nothing
            out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _ratio(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, float]:
    """Quotients of what both measured; of the whole training only where both saw as many images."""
    names = [name for name, value in above.items() if isinstance(value, float) and below.get(name)]
    if above["images_seen"] != below["images_seen"]:
        names = [name for name in names if name not in ("train_seconds", "cpu_seconds")]
    return {name: above[name] / below[name] for name in names}


def print_table(results: Results, columns: Mapping[str, str]) -> None:
    """columns: {name of a result: its heading}."""
    print("\n" + "".ljust(18) + "".join(heading.rjust(11) for heading in columns.values()))
    for row, values in results.items():
        cells = [values.get(name) for name in columns]
        texts = ["-" if cell is None else f"{cell:.4f}" if cell < 10 else f"{cell:.6g}" for cell in cells]
        print(row.ljust(18) + "".join(text.rjust(11) for text in texts))
