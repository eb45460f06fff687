"""The files around a run as W&B artifacts, with who made and who used them: data, checkpoints, exported files."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import reason_of
from mnv2_tasks.training.run_record import RunRecord
from mnv2_tasks.training.wandb_logger import WandbLogger
from mnv2_tasks.weights.artifacts import artifact_of

LOOKED_AT = 10_000  # images of a side, at most, whose names and sizes make its checksum


def use_data(logger: WandbLogger, data: DataModule, settings: Mapping[str, Any]) -> None:
    """Each data set as a reference that the run uses: where it is, counts, classes and a checksum; nothing is uploaded.

    settings: {data set: its section}.
    """
    if logger.is_off:
        return
    from wandb import Artifact

    for name, source in data.sources.items():
        sides = {side: data.split(name, side) for side in SIDES}
        about: dict[str, Any] = {
            "images": {side: len(split) for side, split in sides.items() if split is not None},
            "classes": {kind: list(classes) for kind, classes in source.provides.items()},
            "checksums": {side: checksum(split) for side, split in sides.items() if isinstance(split, FileSplit)},
            "settings": dict(settings.get(name) or {}),
        }
        artifact = Artifact(_name(name), "dataset", metadata=about)
        with artifact.new_file("data.json") as file:  # it makes another version of other data
            json.dump(about, file, indent=2, default=str)
        if root := about["settings"].get("root"):
            artifact.add_reference(Path(os.path.abspath(root)).as_uri(), name="root", checksum=False)
        _use(logger, artifact)


def checksum(split: FileSplit) -> str:
    """SHA-256 of the names and sizes of a side's files, evenly spread where they are many."""
    digest = hashlib.sha256(str(len(split)).encode())
    for index in np.linspace(0, len(split) - 1, min(len(split), LOOKED_AT)).astype(int).tolist():
        path = split.path(index)
        digest.update(os.fsencode(f"{path.name} {path.stat().st_size if path.exists() else None}\n"))
    return digest.hexdigest()


def log_checkpoints(logger: WandbLogger, record: RunRecord, settings: Mapping[str, Any], folder: Path) -> None:
    """last.ckpt, then best.ckpt, as versions of one artifact with these aliases, where `log_model` asks for it."""
    if logger.is_off or not logger.log_model:
        return
    about = {
        "config": {key: settings.get(key) for key in ("backbone", "heads", "size", "fit", "data", "seed")},
        "classes": {task: list(names) for task, names in record.classes.items()},
        "metrics": {side: dict(values) for side, values in record.metrics.items()},
        "primaries": dict(record.primaries),
        "parameters": record.parameters,
        "madds": record.madds,
        "best_epoch": record.best_epoch,
    }
    best, last = (folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    files = [path for path in (last, best) if path.exists()]
    for path in files:
        artifact = _checkpoint(logger.experiment.id, path, {**about, "file": path.name})
        aliases = [path.stem, *(["latest"] if path == files[-1] else [])]
        if len(files) == 1:
            aliases = ["best", "last", "latest"]
        logger.experiment.log_artifact(artifact, aliases=aliases)
        if path == files[-1]:
            _link(logger, artifact)


def use_checkpoint(logger: WandbLogger, path: str | Path) -> None:
    """The checkpoint that an evaluation or an export began with, as one that the run uses.

    With `log_model`, one of a run folder that W&B knows is the version that the run itself made of it, since W&B takes
    equal files for one; else it is a reference.
    """
    if logger.is_off:
        return
    from wandb import Artifact

    if (name := artifact_of(path)) and not logger.experiment.offline:
        logger.experiment.use_artifact(name)
        return
    file = Path(os.path.abspath(path))
    told = file.parent.parent / "wandb_id.txt"
    metadata = {"path": str(path), "artifact": name}
    if logger.log_model and told.exists():
        _use(logger, _checkpoint(told.read_text(encoding="utf-8").strip(), file, metadata))
        return
    artifact = Artifact(_name(f"checkpoint-{_digest(file)[:12]}"), "model", metadata=metadata)
    artifact.add_reference(file.as_uri(), name=file.name, checksum=False)
    _use(logger, artifact)


def log_exported(logger: WandbLogger, folder: Path, about: Mapping[str, Any]) -> None:
    """What an export wrote, as an artifact that the run made."""
    if logger.is_off:
        return
    from wandb import Artifact

    artifact = Artifact(_name(f"export-{logger.experiment.id}"), "exported model", metadata=dict(about))
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        place = path.relative_to(folder)
        if place.parts[0] not in ("wandb", "mlruns", "tensorboard") and place.name != "wandb_id.txt":
            artifact.add_file(str(path), name=str(place))
    logger.experiment.log_artifact(artifact)


def _checkpoint(run: str, path: Path, metadata: dict[str, Any]) -> Any:
    """A checkpoint in its run folder as the artifact of its run."""
    from wandb import Artifact

    artifact = Artifact(f"model-{run}", "model", metadata=metadata)
    artifact.add_file(str(path), name="model.ckpt")
    artifact.add_file(str(path.parent.parent / "config.yaml"), name="config.yaml")
    return artifact


def _use(logger: WandbLogger, artifact: Any) -> None:
    run = logger.experiment
    if run.offline:  # `use_artifact` refuses; this is what it does with one that is not yet sent
        run._log_artifact(artifact, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def _link(logger: WandbLogger, artifact: Any) -> None:
    if not logger.registry:
        return
    if logger.experiment.offline:
        print(f"W&B: an offline run is linked to no registry; link {artifact.name} once it is synced")
        return
    try:
        logger.experiment.link_artifact(artifact, logger.registry)
    except Exception as error:  # of W&B or the network: the run itself is done
        print(f"W&B: {artifact.name} was not linked to {logger.registry}: {reason_of(error)}")


def _name(text: str) -> str:
    """A name as artifacts may have it."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
