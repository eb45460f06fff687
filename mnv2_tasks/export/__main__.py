"""`python -m mnv2_tasks.export ckpt=<file> to=[onnx,executorch]`: files for other runtimes, and a report of proof."""

import logging
import os
import time
from pathlib import Path
from typing import Any

from mnv2_tasks.cli import command, tune_for_cpu
from mnv2_tasks.errors import InputError


def main(config: Any) -> None:
    tune_for_cpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for noisy in ("onnx_ir", "onnxscript", "nncf", "torchao", "coremltools", "root"):  # their progress is not ours
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from hydra.core.hydra_config import HydraConfig

    from mnv2_tasks import export, run
    from mnv2_tasks.evaluate import assemble

    given = [override.lstrip("+").split("=")[0] for override in HydraConfig.get().overrides.task]
    if config.what not in ("model", "taps", "backbone"):
        raise InputError(f"what={config.what}: use model, taps or backbone")
    wanted = [config.to] if isinstance(config.to, str) else list(config.to)
    formats = dict.fromkeys("onnx" if name == "web" else name for name in wanted)
    for name in formats:
        export.need(name)  # before anything takes time
    asked = [config.precision] if isinstance(config.precision, str) else list(config.precision)
    if unknown := set(asked) - {"fp32", "fp16", "int8"}:
        raise InputError(f"precision={sorted(unknown)[0]}: use fp32, fp16 or int8")
    if unknown := set(config.dynamic) - {"batch", "height", "width"}:
        raise InputError(f"dynamic={sorted(unknown)}: batch, height and width may vary")
    needs_data = config.what != "backbone" and (config.proof or "int8" in asked)
    settings, data, model, classes = assemble(config, given, data=needs_data)
    if settings["backbone"].get("padding") == "same" and {"height", "width"} & set(settings["dynamic"]):
        raise InputError(
            "dynamic: TensorFlow's padding differs between even and odd sides, so that sizes cannot vary; leave height "
            "and width out"
        )
    folder = Path(settings["runs"]) / "export" / run.folder_name(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another runs=") from error
    if config.what == "backbone":
        from mnv2_tasks.export.backbone import write_backbone

        write_backbone(model, settings, classes, folder)
        print(f"export: {folder}")
        return
    failed = _export(model.eval(), settings, data, classes, list(formats), asked, folder)
    if "web" in wanted and (folder / "model.onnx").exists():
        from mnv2_tasks.export.web import write_page

        write_page(folder / "model.onnx", folder / "web", settings["web_runtime"])
    print(f"export: {folder}")
    if failed:
        raise InputError(f"{'; '.join(failed)}; the report is {folder / 'export.md'}")


def _export(
    model: Any, settings: dict[str, Any], data: Any, classes: Any, formats: list[str], asked: list[str], folder: Path
) -> list[str]:
    """Write every file, then prove them; returns what failed."""
    import torch

    from mnv2_tasks import export, report
    from mnv2_tasks.export.about import describe
    from mnv2_tasks.export.exported import ABOUT, as_input
    from mnv2_tasks.export.graph import Graph

    size = _size(settings)
    common = describe(model, settings, classes, size)
    taps = tuple(settings["taps"] or model.backbone.kept) if settings["what"] == "taps" else ()
    calibration = _calibration(data, settings["calibration"]) if "int8" in asked else []
    rows: list[dict[str, Any]] = []
    files: dict[str, dict[str, Any]] = {}
    report.write_json(folder / ABOUT, {**common, "files": files})
    for name in formats:
        target = export.get_format(name)
        for precision in [p for p in asked if p in target.precisions]:
            graph = Graph(
                model,
                layout=settings["layout"] or target.layout,  # type: ignore[arg-type]
                masks="logits" if target.masks == "logits" else settings["masks"],
                nms=target.nms if settings["nms"] else "app",  # type: ignore[arg-type]
                candidates=settings["candidates"],
                taps=taps,
            ).eval()
            form = {"name": "images", "layout": graph.layout, "dtype": settings["dtype"] or target.dtype}
            dynamic = [name for name in settings["dynamic"] if name in target.dynamic]
            batch = 1 if name == "ncnn" else settings["batch"]
            shape = [batch, len(model.mean), *size]
            here = {
                "format": name,
                "precision": precision,
                "input": {**form, "shape": shape},
                "outputs": graph.outputs,
                "dynamic": dynamic,
                "candidates": graph.candidates,
                "nms": graph.nms,
            }
            path = folder / f"model{'' if precision == 'fp32' else f'.{precision}'}{target.suffix}"
            # A dynamic batch is traced with two images: one would be taken for a constant.
            traced = torch.zeros((max(2, batch) if "batch" in dynamic else batch, *shape[1:]), dtype=torch.uint8)
            images = [as_input(image, form) for image in calibration]
            print(f"{path.name}: writing ...", flush=True)
            began = time.monotonic()
            told = {**common, **here}
            row: dict[str, Any] = {"file": path.name, **here}
            row["boxes"] = any(head.kind == "detection" for head in model.heads.values()) and not taps
            try:
                target.write(
                    graph,
                    as_input(traced, form),
                    path,
                    precision=precision,
                    calibration=images,
                    about=told,
                )
            except Exception as error:  # every converter has its own
                row["error"] = f"{type(error).__name__}: {str(error).strip()}"[:500]
            row["seconds"] = round(time.monotonic() - began, 1)
            rows.append(row)
            if "error" not in row:
                files[path.name] = {name: value for name, value in told.items() if name not in common}
                row |= files[path.name]
                report.write_json(folder / ABOUT, {**common, "files": files})
    if any(row["nms"] == "app" for row in rows) and any(head.kind == "detection" for head in model.heads.values()):
        (folder / "nms.py").write_text((Path(__file__).parent / "nms.py").read_text())
    if settings["proof"]:
        from mnv2_tasks.export.report import prove

        return prove(model, settings, data, classes, rows, folder)
    return [f"{row['file']}: {row['error']}" for row in rows if "error" in row]


def _size(settings: dict[str, Any]) -> tuple[int, int]:
    from mnv2_tasks import wiring

    sizes = set(wiring.image_sizes(settings).values())
    if len(sizes) > 1:
        raise InputError(f"the data sets have images of {len(sizes)} sizes; give one size=<side> or [height,width]")
    return sizes.pop()


def _calibration(data: Any, count: int) -> list[Any]:
    """`count` training images, spread over the sources, as evaluation sees them; one a batch."""
    from mnv2_tasks.examples import spread

    found = []
    for source in data.sources:
        split = data.split(source, "train")
        for index in spread(split, max(1, count // len(data.sources))):
            found.append(data.batch(source, "train", [index])[0])
    return found


if __name__ == "__main__":
    command(main, "export")
