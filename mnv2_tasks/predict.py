"""Predict on pictures and videos: `python -m mnv2_tasks.predict model=<file> source=<image, folder, video, ...>`."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mnv2_tasks.cli import command, settle, tune_for_cpu
from mnv2_tasks.errors import InputError


def main(config: Any) -> None:
    tune_for_cpu()
    settings = settle(config)
    from mnv2_tasks import run
    from mnv2_tasks.predictor import Predictor
    from mnv2_tasks.sources import STREAMS, Video, download, image_files, is_moving, read_all

    source, size = str(settings["source"]), settings["size"]
    moving = is_moving(source)
    if source.startswith(("http://", "https://")) and not moving:
        files = [download(source)]
    elif not moving:
        files = image_files(source)
    video = Video(source, settings["frames"]) if moving else None
    predictor = Predictor(
        settings["model"],
        size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
        device=settings["device"],
        threads=settings["threads"],
        trust=settings["trust"],
    )
    folder = Path(settings["runs"]) / "predict" / run.folder_name(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another runs=") from error
    found = Found(predictor, folder)
    drawing: Any = None
    if settings["draw"]:
        drawing = Film(predictor, folder, video.name, video.rate) if video else Pictures(predictor, folder)
    named = iter(video) if video else read_all(files, depth=predictor.depth)
    count = video.count if video else len(files)
    batch = 1 if source.isdigit() or source.startswith(STREAMS) else settings["batch_size"]
    try:
        bad = _run(predictor, named, count, batch, found, drawing)
    finally:  # what was found until then is worth keeping
        found.write()
        if drawing:
            drawing.close()
    print(f"predictions: {folder}")
    if bad:
        raise InputError(
            f"{len(bad)} of {len(bad) + found.count} images could not be read; the others are done. {bad[0]}"
        )


def _run(
    predictor: Any, named: Iterator[Any], count: int | None, batch_size: int, found: "Found", drawing: Any
) -> list[str]:
    """Predict batch by batch; returns what was wrong with the pictures that could not be read."""
    from tqdm import tqdm

    bad: list[str] = []
    waiting: list[tuple[str, str, Any]] = []

    def flush() -> None:
        rows = predictor.predict([image for _, _, image in waiting], batch_size=batch_size) if waiting else []
        for (name, stem, image), row in zip(waiting, rows, strict=True):
            found.add(name, stem, row)
            if drawing:
                drawing.add(stem, image, row)
        bar.update(len(waiting))
        waiting.clear()

    bar = tqdm(total=count, unit="image", desc="predicting")
    try:
        for name, stem, image in named:
            if isinstance(image, InputError):
                bad.append(str(image))
                bar.update()
                continue
            waiting.append((name, stem, image))
            if len(waiting) == batch_size:
                flush()
    except KeyboardInterrupt:  # how a camera is stopped
        pass
    flush()
    bar.close()
    for line in bad:
        print(f"skipped: {line}")
    return bad


class Found:
    """Predictions as files for machines: detections.json, masks/, labels.csv; with several heads, a folder a head.

    detections.json is a list as COCO's results are: image_id counts the pictures from 0, category_id the classes from
    1, bbox is [x, y, width, height] in the picture's pixels; file and category say the same in names. masks/ holds PNG
    files of class indices. labels.csv has a row a picture: the likeliest class, and the score of every class.
    """

    def __init__(self, predictor: Any, folder: Path) -> None:
        self.predictor, self.folder, self.count = predictor, folder, 0
        self.detections: dict[str, list[dict[str, Any]]] = {}
        self.labels: dict[str, list[list[Any]]] = {}

    def place(self, task: str) -> Path:
        place = self.folder if len(self.predictor.heads) == 1 else self.folder / task
        place.mkdir(exist_ok=True)
        return place

    def add(self, name: str, stem: str, prediction: dict[str, Any]) -> None:
        from PIL import Image

        for task, row in prediction.items():
            classes = self.predictor.classes[task]
            if "boxes" in row:
                rows = self.detections.setdefault(task, [])
                for (x, y, right, low), score, label in zip(
                    row["boxes"].tolist(), row["scores"].tolist(), row["labels"].tolist(), strict=True
                ):
                    box = [round(value, 2) for value in (x, y, right - x, low - y)]
                    told = {"image_id": self.count, "file": name, "category_id": label + 1, "category": classes[label]}
                    rows.append({**told, "bbox": box, "score": round(score, 5)})
            elif "mask" in row:
                path = self.place(task) / "masks" / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(row["mask"].numpy()).save(path)
            else:
                scores = row["scores"].tolist()
                best = max(range(len(scores)), key=scores.__getitem__)
                rounded = [round(score, 5) for score in scores]
                self.labels.setdefault(task, []).append([name, classes[best], rounded[best], *rounded])
        self.count += 1

    def write(self) -> None:
        from mnv2_tasks import report

        for task, rows in self.detections.items():
            report.write_json(self.place(task) / "detections.json", rows)
        for task, table in self.labels.items():
            with (self.place(task) / "labels.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "label", "score", *self.predictor.classes[task]])
                writer.writerows(table)


class Pictures:
    """Predictions on the pictures, a PNG each."""

    def __init__(self, predictor: Any, folder: Path) -> None:
        self.predictor, self.folder = predictor, folder

    def add(self, stem: str, image: Any, prediction: dict[str, Any]) -> None:
        from torchvision.io import write_png

        for task, drawn in self.predictor.draw(image, prediction).items():
            place = self.folder if len(prediction) == 1 else self.folder / task
            path = place / "pictures" / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(drawn, str(path), compression_level=3)

    def close(self) -> None:
        pass


class Film:
    """Predictions on the frames of a video, an MP4 a head (H.264)."""

    def __init__(self, predictor: Any, folder: Path, name: str, rate: Any) -> None:
        self.predictor, self.folder, self.stem, self.rate = predictor, folder, Path(name).stem, rate
        self.films: dict[str, tuple[Any, Any]] = {}

    def add(self, stem: str, image: Any, prediction: dict[str, Any]) -> None:
        from mnv2_tasks.sources import import_av

        av = import_av()
        for task, drawn in self.predictor.draw(image, prediction).items():
            if task not in self.films:
                place = self.folder if len(prediction) == 1 else self.folder / task
                place.mkdir(exist_ok=True)
                container = av.open(str(place / f"{self.stem}.mp4"), "w")
                stream = container.add_stream("libx264", rate=self.rate, options={"crf": "20", "preset": "veryfast"})
                height, width = self._canvas(task, image, drawn)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                self.films[task] = container, stream
            container, stream = self.films[task]
            canvas = drawn.new_full((3, stream.height, stream.width), 255)
            part = drawn[:, : stream.height, : stream.width]
            canvas[:, : part.shape[1], : part.shape[2]] = part
            frame = av.VideoFrame.from_ndarray(canvas.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))

    def _canvas(self, task: str, image: Any, drawn: Any) -> tuple[int, int]:
        """(H, W), both even, that every frame fits in: the legend of a mask grows with the classes that are there."""
        import torch

        height, width = drawn.shape[1:]
        if self.predictor.heads[task].kind == "segmentation":
            everything = torch.arange(len(self.predictor.classes[task]), dtype=torch.uint8)[None]
            whole = self.predictor.draw(image, {task: {"mask": everything.repeat(2, 1)}})[task]
            height, width = max(height, whole.shape[1]), max(width, whole.shape[2])
        return height + height % 2, width + width % 2

    def close(self) -> None:
        for container, stream in self.films.values():
            container.mux(stream.encode())
            container.close()


if __name__ == "__main__":
    command(main, "predict")
