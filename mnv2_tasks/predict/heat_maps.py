"""Heat maps: which parts of a picture speak for the class that it is predicted to show."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from mnv2_tasks.datasets.transforms import seen_size
from mnv2_tasks.files import place_of
from mnv2_tasks.kinds import Prediction
from mnv2_tasks.predict.films import NamedPicture
from mnv2_tasks.predict.prediction_files import write_whole
from mnv2_tasks.predict.predictor import Predictor
from mnv2_tasks.samples import resize
from mnv2_tasks.visual.heat_drawing import draw_heat

if TYPE_CHECKING:  # an exported file predicts without the network
    from mnv2_tasks.model import Classes, Model

TAPS = ("c3x", "c4x", "c5x")  # after an activation, as in the paper: nothing of them is below 0


class HeatMap(NamedTuple):
    label: int | None  # the class that it is of; None where the prediction shows none
    score: float | None
    heat: Tensor  # (H, W) float32 in 0..1, of the input


class HeatMaps:
    """A picture each of where its prediction comes from, `<name>.explain.png` beside what `Drawings` writes.

    It is drawn on the picture; on the part of it that the network sees where images are cropped to the network's size.

    Args:
        taps: of the trunk that are looked at together, of `taps_for`.
    """

    def __init__(self, predictor: Predictor, folder: Path, taps: Sequence[str]) -> None:
        self.predictor = predictor
        self.folder = folder
        self.taps = tuple(taps)

    def add(self, named: NamedPicture, prediction: dict[str, Any]) -> None:
        """Raises OSError where the picture cannot be written; InputError for a head of one's own without `evidence`."""
        from torchvision.io import encode_png

        predictor, image, model = self.predictor, named.image, self.predictor.model
        assert isinstance(image, Tensor) and model is not None
        seen_image = predictor.prepare(image)
        height, width = seen_size(predictor.size, (image.shape[-2], image.shape[-1]), predictor.fit)
        under = seen_image.expand(3, -1, -1) if predictor.fit == "crop" else image
        batch = seen_image[None].to(predictor.device)
        for task, one in heat_maps(model, batch, predictor.classes, self.taps, predictor.shown).items():
            heat = one.heat[:height, :width]
            drawn = draw_heat(under, heat, one.label, predictor.classes[task], score=one.score)
            path = place_of(self.folder, task, predictor.kinds) / "pictures" / f"{named.stem}.explain.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, encode_png(drawn, compression_level=3).numpy().data)

    def close(self) -> None:
        pass


def taps_for(predictor: Predictor, wanted: Sequence[str] | Literal[True]) -> tuple[str, ...]:
    """The taps to look at, which the model's trunk gives from now on; of True, those of `TAPS` and the deepest.

    Raises InputError for an exported file, and for a tap that the trunk does not have.
    """
    backbone = predictor.trunk("explain")
    if wanted is True:
        wanted = [tap for tap in backbone.there if tap in TAPS or tap == backbone.there[-1]]
    predictor.keep("explain", wanted)
    return tuple(wanted)


def heat_maps(
    model: "Model",
    image: Tensor,
    classes: "Classes",
    taps: Sequence[str],
    shown: Callable[[str, Prediction], Prediction],
) -> dict[str, HeatMap]:
    """{task: the heat map of the class that its prediction shows above all} of an image (1, C, H, W) uint8.

    A classifier's is of the class's logit, a detector's of the scores of the boxes of the class that are shown, a
    segmenter's of the class's logits where it is predicted; of one view of the image. `taps` have to be kept by the
    backbone; `shown` gives what is shown of a task's prediction.
    """
    size = (image.shape[-2], image.shape[-1])
    found: dict[str, HeatMap] = {}
    with torch.enable_grad():
        maps = model.taps((image.to(model.mean.dtype) / 255).requires_grad_())  # whatever is frozen
        for task, head in model.heads.items():
            outputs = head(maps, size)
            row = shown(task, {name: values.cpu() for name, values in head.predict(outputs)[0].items()})
            prediction = {name: values.to(image.device) for name, values in row.items()}
            label = head.kind.leading(prediction, classes[task])
            if label is None:
                found[task] = HeatMap(None, None, torch.zeros(size))
                continue
            evidence = head.evidence(outputs, prediction, label)
            inputs = [maps[tap] for tap in taps]
            gradients = torch.autograd.grad(evidence, inputs, retain_graph=True, allow_unused=True)
            pairs = [(a.detach(), g) for a, g in zip(inputs, gradients, strict=True) if g is not None]
            heat = fused([layer_cam(*pair) for pair in pairs], size)[0].cpu() if pairs else torch.zeros(size)
            found[task] = HeatMap(label, _score(prediction, label), heat)
    return found


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., IEEE TIP 2021, section III-B): a tap and its gradient, (B, C, h, w) -> (B, h, w).

    Each place of each channel weighs with its own gradient, where that is above 0.
    """
    return (gradient.clamp(min=0) * activation).sum(1).clamp(min=0)


def fused(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The mean of maps (B, h, w) of several taps, each brought to 0..1 and to `size`, in 0..1: (B, *size)."""
    whole = torch.stack([resize(_unit(one)[:, None], size)[:, 0] for one in maps]).mean(0)
    return _unit(whole)


def _unit(maps: Tensor) -> Tensor:
    """(B, h, w) -> the same from 0 to 1 (an even one: 0)."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


def _score(prediction: Mapping[str, Tensor], label: int) -> float | None:
    """The score of a class, or of its best box; a mask has none."""
    if "scores" not in prediction:
        return None
    scores = prediction["scores"]
    return float(scores[prediction["labels"] == label].max() if "labels" in prediction else scores[label])
