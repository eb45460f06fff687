"""Trained models at work: images of any size in, predictions in their own pixels out; from any file that holds one."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2_tasks.datasets.reading.depth import DEPTHS
from mnv2_tasks.datasets.reading.images import decode, open_image, reading
from mnv2_tasks.datasets.transforms import plain, seen_size
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.export.decode import predictions
from mnv2_tasks.files import open_regular
from mnv2_tasks.kinds import Calibration, Decoding, Kind, Prediction
from mnv2_tasks.kinds.detection_kind import DRAWN_SCORE, Decides
from mnv2_tasks.kinds.kind import Least
from mnv2_tasks.weights.artifacts import local_file

if TYPE_CHECKING:
    from mnv2_tasks.backbone import MobileNetV2
    from mnv2_tasks.export.session import Exported
    from mnv2_tasks.model import Model

# A file; PIL's image of any mode; uint8 RGB, grey or with transparency: (H, W, 3), (H, W), (H, W, 1), (H, W, 4), and as
# a tensor with the channels first.
Picture = Tensor | np.ndarray | Image.Image | str | Path


class Predictor:
    """A checkpoint, or a file that `python -m mnv2_tasks.export` wrote; `mnv2_tasks.load` makes one.

    Args:
        path: best.ckpt, or model.onnx, model.tflite, ... with the model.json beside it; or a W&B artifact, as
            wandb:<entity>/<project>/<name>:<alias>.
        size: (H, W) that images are brought to; None: what the model was trained or exported with.
        device: of a checkpoint.
        threads: of an exported file's runtime; None: as many as PyTorch uses.
        trust: modules besides this package's that a checkpoint may build its heads from; torch_export, aoti: formats
            whose files run code when they are loaded.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] | None = None,
        device: str = "cpu",
        threads: int | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        path = self.path = local_file(path)
        self.device = usable_device(device)
        if not self.path.exists():
            raise InputError(f"{path}: no such file; give a checkpoint or an exported model")
        if not self.path.is_file() and not self.path.is_dir():
            raise InputError(f"{path}: no regular file; give a checkpoint or an exported model")
        self.exported: Exported | None = None
        self.model: Model | None = None
        self.kinds: dict[str, Kind]
        self.classes: dict[str, tuple[str, ...]]
        self.decodings: dict[str, Decoding] = {}  # of an exported file's detectors
        self._built_in = False  # whether an exported file suppresses boxes by itself
        if self.path.suffix == ".ckpt":
            from mnv2_tasks.assembly.network import load_model

            self.model, checkpoint = load_model(path, trust=trust)
            self.model.to(self.device)
            config = checkpoint["config"]
            self.classes = checkpoint["classes"]
            self.kinds = {task: head.kind for task, head in self.model.heads.items()}
            fitted = _sizes(config["size"])
            self.fit = config["fit"]
            self.channels = config["backbone"]["in_channels"]
            depth = config.get("depth")
            calibrations = checkpoint["calibrations"]
        else:
            from mnv2_tasks.export import session
            from mnv2_tasks.export.exported_model import exported_model

            if device != "cpu":
                raise InputError(f"device={device}: {path} runs in a runtime of its own, on the CPU; leave device out")
            self.exported = session.Exported(path, threads=threads or torch.get_num_threads(), trust=trust)
            description = exported_model(self.path, self.exported.about, trust=trust)
            self.kinds = description.kinds
            self.classes = description.classes
            self.decodings = description.decodings
            fitted = description.size
            self.fit = description.fit
            self.channels = description.channels
            depth = description.depth
            self._built_in = description.built_in
            calibrations = description.calibrations
        self.size: tuple[int, int] = size or fitted
        self._score: float | None = None
        self._chosen: dict[str, Tensor] = {}  # {task: (K,) bool, the classes that are looked for}
        self.calibrations: dict[str, Calibration] = calibrations
        self._thresholds = {
            task: torch.tensor(one.thresholds) for task, one in calibrations.items() if one.thresholds is not None
        }
        self.depth = 16 if depth is None else depth  # bits that the values of 16-bit files use
        if self.depth not in DEPTHS:
            raise InputError(f"{path}: 16-bit files use {quote(depth)} bits, it says; that is none of {DEPTHS}")

    def choose(
        self, *, score: float | None = None, classes: Sequence[str] | None = None, iou: float | None = None
    ) -> None:
        """What predictions hold from now on; None leaves it as the model was made.

        Args:
            score: of detectors: the lowest score, in place of the thresholds of a calibrated one.
            classes: names. Detectors find these alone; of segmenters, pixels of others are 255; of classifiers, the
                scores of others are 0. A head that knows none of the names goes on as before.
            iou: of detectors: the IoU from which the weaker of two boxes of a class is suppressed.

        Raises InputError for names that no head knows, for a model without a detector, and for an exported file that
        decides otherwise by itself.
        """
        detectors = [task for task, kind in self.kinds.items() if kind.scored]
        for key, value in {"score": score, "iou": iou}.items():
            if value is not None and not detectors:
                raise InputError(f"{key}={value}: {self.path} has no detector, which it would be for; leave it out")
        if iou is not None and self._built_in:
            raise InputError(
                f"iou={iou}: {self.path} has its suppression built in; leave it out, predict with the checkpoint, or "
                "export with nms=false"
            )
        # A little less, for detectors take what is above it; `Kind.narrow` takes what scores as much, too.
        lowest = None if score is None else score - 1e-6
        for task in detectors:
            if self.model is None:
                self.decodings[task] = self._changed(task, score, lowest, iou)
                continue
            head = self.model.heads[task]
            if not isinstance(head, Decides):  # somebody's own
                raise InputError(f"score, iou: {type(head).__name__} does not take them; leave them out")
            head.decide(score=lowest, iou=iou)
        self._score = score
        known = {name for names in self.classes.values() for name in names}
        if classes is not None and (unknown := [name for name in classes if name not in known]):
            close = get_close_matches(unknown[0], known, n=1)
            perhaps = f"; did you mean {close[0]}?" if close else ""
            names = ", ".join(sorted(known))
            raise InputError(f"classes: {quote(unknown[0])} is no class of {self.path}{perhaps}; it has {names}")
        self._chosen = {
            task: torch.tensor([name in classes for name in names])
            for task, names in self.classes.items()
            if classes is not None and set(classes) & set(names)
        }

    def _changed(self, task: str, score: float | None, lowest: float | None, iou: float | None) -> Decoding:
        """The decoding of an exported file's detector with what is given; a graph that has its own keeps it."""
        decoding = self.decodings[task]
        if score is not None and self._built_in and score < decoding.score_threshold:
            raise InputError(
                f"score={score}: {self.path} has {decoding.score_threshold} built in; give no lower one, or predict "
                "with the checkpoint"
            )
        if self._built_in:
            return decoding
        return replace(
            decoding,
            score_threshold=decoding.score_threshold if lowest is None else lowest,
            nms=decoding.nms if iou is None else iou,
        )

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, list[Prediction]]:
        """(B, C, H, W) uint8 of the model's size -> {task: one prediction an image}, in pixels of that input."""
        if self.exported is not None:
            arrays = self.exported(images)
            return {
                task: predictions(task, kind, arrays, self.decodings.get(task)) for task, kind in self.kinds.items()
            }
        assert self.model is not None
        outputs = self.model.predict(images.to(self.device))
        return {task: [{k: v.cpu() for k, v in row.items()} for row in rows] for task, rows in outputs.items()}

    def predict(self, images: Picture | Sequence[Picture], *, batch_size: int = 8) -> list[dict[str, Prediction]]:
        """One {task: prediction} an image, in the image's own pixels.

        Of a detector {boxes (N, 4) xyxy, scores (N,), labels (N,)}; of a segmenter {mask (H, W) uint8}; of a classifier
        {scores (K,)}. Raises InputError for a file that is no image.
        """
        one = isinstance(images, (str, Path, Image.Image)) or getattr(images, "ndim", 0) in (2, 3)
        many: Any = [images] if one else images
        pictures: list[Picture] = list(many)
        results: list[dict[str, Prediction]] = []
        for start in range(0, len(pictures), batch_size):
            raw = [as_image(picture, depth=self.depth) for picture in pictures[start : start + batch_size]]
            outputs = self.run(torch.stack([self.prepare(image) for image in raw]))
            for i, image in enumerate(raw):
                original = (image.shape[-2], image.shape[-1])
                seen = seen_size(self.size, original, self.fit)
                results.append({})
                for task, rows in outputs.items():
                    kind, chosen = self.kinds[task], self._chosen.get(task)
                    row = kind.narrow(rows[i], score=self.least(task), chosen=chosen)
                    results[-1][task] = kind.restore(row, seen, original)
        return results

    def prepare(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 of any size -> (C, *self.size)."""
        moved = plain(self.size, self.fit, (image.shape[-2], image.shape[-1]))(tv_tensors.Image(image))
        return (v2.Grayscale()(moved) if self.channels == 1 else moved).as_subclass(Tensor)

    def draw(self, image: Tensor, prediction: dict[str, Prediction]) -> dict[str, Tensor]:
        """{task: the prediction on the image}, uint8 (3, H', W')."""
        size = (image.shape[-2], image.shape[-1])
        return {
            task: self.kinds[task].draw(image, row, self.classes[task], seen=size, least=self.least(task))
            for task, row in prediction.items()
        }

    @torch.inference_mode()
    def embed(self, images: Sequence[Tensor], tap: str) -> Tensor:
        """Pictures uint8 (3, H, W) of any size -> (N, C) float32: a tap (see `keep`), averaged over places."""
        batch = torch.stack([self.prepare(image) for image in images]).to(self.device)
        assert self.model is not None
        return self.model.taps(batch)[tap].float().mean((2, 3)).cpu()

    def shown(self, task: str, row: Prediction) -> Prediction:
        """What pictures show of a task's prediction, in pixels of the input; its best box where they show none."""
        kind, chosen = self.kinds[task], self._chosen.get(task)
        kept = kind.narrow(row, score=self.least(task), chosen=chosen)
        drawn = kind.narrow(kept, score=self.counted_from(task), chosen=None)
        return drawn if not kind.scored or len(drawn["scores"]) else {name: values[:1] for name, values in kept.items()}

    def trunk(self, setting: str) -> "MobileNetV2":
        """The trunk of a checkpoint's model. Raises InputError, for a `setting`, of an exported file."""
        if self.model is None:
            raise InputError(
                f"{setting}: {self.path} is an exported file, which gives predictions alone; give model=<the "
                "checkpoint that it was exported from>"
            )
        return self.model.backbone

    def keep(self, setting: str, taps: Sequence[str]) -> None:
        """Have the trunk give these taps, too, for a `setting`. Raises InputError where it has no such tap, or none."""
        backbone = self.trunk(setting)
        try:
            backbone.keep([*backbone.kept, *taps])
        except InputError as error:
            raise InputError(f"{setting}={','.join(taps)}: {error}") from error

    def least(self, task: str) -> Least | None:
        """The lowest score of a task's predictions: the chosen one, those of its calibration, or None."""
        return self._score if self._score is not None and self.kinds[task].scored else self._thresholds.get(task)

    def counted_from(self, task: str) -> Least:
        """The score from which an object is drawn and counted."""
        least = self.least(task)
        return DRAWN_SCORE if least is None else least


def as_image(picture: Picture, *, depth: int = 16) -> Tensor:
    """Any picture -> uint8 (3, H, W) RGB, upright; transparency is dropped. Raises InputError for anything else.

    `depth` is as in `read_image`.
    """
    if isinstance(picture, (str, Path)):
        with reading(picture), open_regular(picture) as file, open_image(file) as opened:
            return decode(opened, depth)
    if isinstance(picture, Image.Image):
        with reading(getattr(picture, "filename", "") or "the image"):
            return decode(picture, depth)
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] in (1, 3, 4):
            picture = picture.transpose(2, 0, 1)
        elif picture.ndim == 3:
            raise _no_picture(picture)
        if picture.dtype == np.uint8:
            picture = torch.from_numpy(np.array(picture, order="C"))
    if not isinstance(picture, Tensor) or picture.dtype != torch.uint8 or not picture.numel():
        raise _no_picture(picture)
    if picture.ndim == 2:
        picture = picture[None]
    if picture.ndim != 3 or len(picture) not in (1, 3, 4):
        raise _no_picture(picture)
    return picture.expand(3, -1, -1) if len(picture) == 1 else picture[:3]


def _no_picture(picture: Any) -> InputError:
    shape = f" {tuple(picture.shape)} of {picture.dtype}" if isinstance(picture, (Tensor, np.ndarray)) else ""
    scale = "; bring values of 0..1 to uint8 with (255 * x).round()" if "float" in shape else ""
    return InputError(
        f"an image must be a file, PIL's image, a uint8 array (H, W, 3) or a uint8 tensor (3, H, W), RGB, not "
        f"{type(picture).__name__}{shape}{scale}"
    )


def usable_device(name: str) -> str:
    """`name`, where PyTorch computes on such a device here. Raises InputError."""
    try:
        if torch.device(name).type == "meta":
            raise RuntimeError("it holds no values")
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device={name}: cannot be used here ({reason}); use device=cpu") from error
    return name


def _sizes(setting: Any) -> tuple[int, int]:
    """The (H, W) of a config's `size`; the largest, where data sets have their own."""
    if isinstance(setting, dict):
        return max((_sizes(size) for size in setting.values()), key=lambda size: size[0] * size[1])
    return (setting, setting) if isinstance(setting, int) else (setting[0], setting[1])
