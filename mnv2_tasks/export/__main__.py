"""`python -m mnv2_tasks.export ckpt=<file> to=[onnx,executorch]`: files for other runtimes, and a report of proof."""

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import typed
from mnv2_tasks.assembly.restore import assemble, need_model
from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu

if TYPE_CHECKING:
    from mnv2_tasks.assembly.resolve import Resolved

CHOICES = {
    "what": ("model", "taps", "backbone"),
    "precision": ("fp32", "fp16", "int8"),
    "layout": ("nchw", "nhwc"),
    "dtype": ("uint8", "float32"),
    "masks": ("argmax", "logits"),
    "dynamic": ("batch", "height", "width"),
}


def main(config: Any) -> None:
    need_model(config)
    tune_for_cpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for noisy in ("onnx_ir", "onnxscript", "nncf", "torchao", "coremltools", "root"):  # their progress is not ours
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from mnv2_tasks.export import formats
    from mnv2_tasks.export.session import ABOUT
    from mnv2_tasks.files import new_folder

    for key, choices in CHOICES.items():
        if unknown := [value for value in _listed(config[key]) if value not in choices]:
            raise InputError(f"{key}={unknown[0]}: use {', '.join(choices[:-1])} or {choices[-1]}")
    wanted = _listed(config.to) if config.what != "backbone" else []
    if not wanted and config.what != "backbone":
        raise InputError(f"to=[]: name formats, of {', '.join((*formats.FORMATS, 'web'))}")
    precisions = _precisions(wanted, _listed(config.precision))  # before anything takes time
    runtime = _page_runtime(config) if "web" in wanted else None
    files = ", ".join(f"{name} {'+'.join(names)}" for name, names in precisions.items()) or "the backbone"
    proof = ", then compared with PyTorch on images" if precisions and config.proof else ""
    print(f"export: {config.ckpt or config.weights} to {files}{proof}; a minute or so a file", flush=True)
    needs_data = config.what != "backbone" and (config.proof or _quantised(precisions))
    resolved, model = assemble(config, typed().names, data=needs_data)
    settings, data, classes = resolved.settings, resolved.data, resolved.classes
    for line in resolved.said:
        print(line)
    if settings["backbone"].get("padding") == "same" and {"height", "width"} & set(_listed(settings["dynamic"])):
        raise InputError(
            "dynamic: TensorFlow's padding differs between even and odd sides, so that sizes cannot vary; leave height "
            "and width out"
        )
    if data:
        data.tell((["train"] if _quantised(precisions) else []) + ([settings["split"]] if settings["proof"] else []))
    folder = new_folder(Path(settings["runs"]) / "export", settings["name"])
    if config.what == "backbone":
        from mnv2_tasks.export.hub import write_backbone

        write_backbone(model, settings, classes, folder)
        print(f"export: {folder}")
        return
    failed = _export(model.eval(), resolved, precisions, folder)
    written = [
        name for name in json.loads((folder / ABOUT).read_text(encoding="utf-8"))["files"] if name.endswith(".onnx")
    ]
    if runtime and written:
        from mnv2_tasks.export.web import write_page

        write_page(folder / written[0], folder / "web", runtime)
    from mnv2_tasks.assembly.logging_to import logging_to

    with logging_to(settings, folder, job_type="export") as loggers:
        if loggers:
            _log(loggers, folder, config.ckpt or config.weights)
    print(f"export: {folder}")
    if failed:
        raise InputError(f"{'; '.join(failed)}; the report is {folder / 'export.md'}")


def _log(loggers: list[Any], folder: Path, model: str) -> None:
    """The files and what their report says of them."""
    from mnv2_tasks.export.session import ABOUT
    from mnv2_tasks.training.logged_results import log_rows
    from mnv2_tasks.training.wandb_artifacts import log_exported, use_checkpoint
    from mnv2_tasks.training.wandb_logger import WandbLogger

    report = folder / "export.json"  # of proof=true
    listed = json.loads(report.read_text(encoding="utf-8"))["files"] if report.exists() else []
    rows = {row["file"]: row for row in listed}
    log_rows(loggers, rows, folder)
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    metadata = {key: about[key] for key in ("config", "classes", "size", "license", "files") if key in about}
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            use_checkpoint(logger, model)
            log_exported(
                logger, folder, metadata | {"after": {name: row.get("after", {}) for name, row in rows.items()}}
            )


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _quantised(precisions: dict[str, list[str]]) -> bool:
    return any("int8" in names for names in precisions.values())


def _precisions(wanted: list[str], asked: list[str]) -> dict[str, list[str]]:
    """{format: its part of what is asked for}. Raises InputError where there is none, or what it needs is missing."""
    from mnv2_tasks.export import formats

    precisions: dict[str, list[str]] = {}
    for name in dict.fromkeys("onnx" if name == "web" else name for name in wanted):
        target = formats.need(name)
        precisions[name] = [precision for precision in asked if precision in target.precisions]
        if not precisions[name]:
            raise InputError(f"precision={','.join(asked)}: to={name} makes {', '.join(target.precisions)} alone")
        for precision in asked:
            if precision not in target.precisions:
                print(f"{name}: no {precision}, which it does not make")
    return precisions


def _export(model: Any, resolved: "Resolved", precisions: dict[str, list[str]], folder: Path) -> list[str]:
    """Write every file, then prove them; returns what failed."""
    import torch

    from mnv2_tasks.export import formats
    from mnv2_tasks.export.graph import Graph
    from mnv2_tasks.export.metadata import InputForm, Metadata, describe
    from mnv2_tasks.export.report import ExportRow, noted, prove
    from mnv2_tasks.export.session import ABOUT, as_input, digest
    from mnv2_tasks.files import write_json

    settings, data, classes, size = resolved.settings, resolved.data, resolved.classes, _size(resolved)
    taps: tuple[str, ...] = ()
    if settings["what"] == "taps":
        taps = tuple(_listed(settings["taps"])) or model.backbone.kept
        settings = {**settings, "taps": taps}
        model.backbone.keep(taps)
    calibration = _calibration(data, settings["calibration"]) if _quantised(precisions) else []
    rows: list[ExportRow] = []
    files: dict[str, dict[str, Any]] = {}
    common = {**describe(model, settings, classes), "size": list(size)}
    write_json(folder / ABOUT, {**common, "files": files})
    detects = any(head.kind.scored for head in model.heads.values()) and not taps
    for name, own_precisions in precisions.items():
        target = formats.get_format(name)
        graph = Graph(
            model,
            layout=settings["layout"] or target.layout,
            masks="logits" if target.masks == "logits" else settings["masks"],
            nms=target.nms if settings["nms"] else "app",
            candidates=settings["candidates"],
            taps=taps,
        ).eval()
        dynamic = tuple(axis for axis in _listed(settings["dynamic"]) if axis in target.dynamic)
        batch, channels = target.batch or settings["batch"], len(model.mean)
        shape = (batch, channels, *size) if graph.layout == "nchw" else (batch, *size, channels)
        form = InputForm(graph.layout, settings["dtype"] or target.dtype, shape)
        # A dynamic batch is traced with two images: one would be taken for a constant.
        traced = torch.zeros((max(2, batch) if "batch" in dynamic else batch, channels, *size), dtype=torch.uint8)
        groups = [calibration[i : i + batch] for i in range(0, len(calibration), batch)]
        images = [as_input(torch.cat((group * batch)[:batch]), form) for group in groups]  # the last one filled up
        for precision in own_precisions:
            about = Metadata(
                common, size, form, tuple(graph.outputs), dynamic, name, precision, graph.candidates, graph.nms
            )
            path = folder / f"model{'' if precision == 'fp32' else f'.{precision}'}{target.suffix}"
            print(f"{path.name}: writing ...", flush=True)
            row, began = ExportRow(path.name, about, detects), time.monotonic()
            rows.append(row)
            try:
                about = target.write(graph, as_input(traced, form), path, about, images)
            except Exception as error:  # every converter has its own
                row.error = noted(error, path.name, folder)
            row.seconds = round(time.monotonic() - began, 1)
            if not row.error:
                row.about = replace(about, sha256=digest(path))
                files[path.name] = row.about.of_file()
                write_json(folder / ABOUT, {**common, "files": files})
    if detects and any(row.about.nms == "app" for row in rows):
        (folder / "nms.py").write_bytes((Path(__file__).parent / "nms.py").read_bytes())
    if settings["proof"]:
        return prove(model, settings, data, classes, rows, folder)
    return [f"{row.file}: {row.error}" for row in rows if row.error]


def _page_runtime(config: Any) -> Path:
    """Where onnxruntime-web lies. Raises InputError where it is missing, or the page has no use for the model."""
    from mnv2_tasks.export.web import find_runtime

    if config.what == "taps" or config.masks == "logits" or not config.nms:
        raise InputError(
            "to=web: the page shows what is decided in the graph: leave what=model, masks=argmax, nms=true"
        )
    if config.batch > 1 and "batch" not in _listed(config.dynamic):
        raise InputError(f"to=web: the page looks at one picture at a time: leave batch={config.batch} out")
    return find_runtime(config.web_runtime)


def _size(resolved: "Resolved") -> tuple[int, int]:
    sizes = set(resolved.sizes.values())
    if len(sizes) > 1:
        raise InputError(f"the data sets have images of {len(sizes)} sizes; give one size=<side> or [height,width]")
    return sizes.pop()


def _calibration(data: Any, count: int) -> list[Any]:
    """`count` training images, spread over the sources, as evaluation sees them; one a batch."""
    from mnv2_tasks.samples import spread

    images = []
    for source in data.sources:
        split = data.split(source, "train")
        for index in spread(split, max(1, count // len(data.sources))):
            images.append(data.batch(source, "train", [index])[0])
    return images


if __name__ == "__main__":
    command(main, "export")
