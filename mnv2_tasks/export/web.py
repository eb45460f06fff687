"""A page that runs the ONNX model in the browser: any static server shows it, and nothing leaves the browser."""

import json
import shutil
from pathlib import Path

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.session import read_about

PAGE = Path(__file__).parent / "page"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")  # of onnxruntime-web/dist
PRIVATE = ("config",)  # of the metadata: the page has no use for it


def find_runtime(place: str | Path | None = None) -> Path:
    """The `dist` folder of the npm package onnxruntime-web (npm install onnxruntime-web).

    None looks for node_modules here and above. Raises InputError where it is not there.
    """
    dist = Path(place) if place else _installed()
    if missing := [name for name in RUNTIME if not (dist / name).is_file()]:
        raise InputError(f"{dist}: no {missing[0]} there; give web_runtime=<node_modules/onnxruntime-web/dist>")
    return dist


def write_page(model: Path, folder: Path, dist: Path) -> None:
    """The page, the model, what the page needs to know of it, and onnxruntime-web's files from `dist`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PAGE.iterdir():
        shutil.copy(part, folder / part.name)
    for name in RUNTIME:
        shutil.copy(dist / name, folder / name)
    shutil.copy(model, folder / "model.onnx")
    about = {key: value for key, value in read_about(model).as_dict().items() if key not in PRIVATE}
    (folder / "model.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _installed() -> Path:
    for folder in (Path.cwd(), *Path.cwd().parents):
        dist = folder / "node_modules" / "onnxruntime-web" / "dist"
        if dist.is_dir():
            return dist
    raise InputError(
        "to=web needs onnxruntime-web: npm install onnxruntime-web in this folder, or give web_runtime=<its dist>"
    )
