"""What every kind of annotation says of itself: its fields, batches, predictions, pictures, files and graphs."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.errors import InputError

Sample: TypeAlias = dict[str, Any]  # of one image
Targets: TypeAlias = dict[str, Tensor]  # batched; a missing label is an ignore value
Prediction: TypeAlias = dict[str, Tensor]  # of one image
Arrays: TypeAlias = Mapping[str, np.ndarray]  # a graph's outputs for one task, by the names of `Kind.outputs`
Apart: TypeAlias = dict[str, float]  # {"largest", "relative", "unlike", "total"}
# boxes (N, 4), scores (N, K), and the settings of a `Decoding` -> boxes, scores and labels of those kept
Suppress: TypeAlias = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]

Least: TypeAlias = float | Tensor  # a score for all classes, or (K,), one for each


class Decided(NamedTuple):
    """How a graph decides: what segmenters give, and how detectors suppress.

    Attributes:
        masks: the likeliest class of every pixel, or its logits.
        nms: suppression by an operator of the format, by plain operations, or left to the app.
        candidates: boxes of each class that go into suppression.
        keep: (boxes (B, K k, 4) in pixels, scores (B, K, k), a class's highest first, (K, k), `Decoding`) ->
            (B, K, k), 1 for the boxes kept.
    """

    masks: Literal["argmax", "logits"]
    nms: Literal["native", "portable", "app"]
    candidates: int
    keep: Callable[[Tensor, Tensor, tuple[int, int], Any], Tensor]


class Kind(ABC):
    """One kind of annotation; an instance has no state.

    Targets of every kind hold image_id (B,), -1 for a repeat that metrics leave out; size (B, 2), the (H, W) of the
    original images; and seen (B, 2), the (h, w) at the top left of the input that holds the image. What else they and
    the predictions hold is told by each kind.

    Attributes:
        name: in configs, data sets and files.
        fields: of a sample; where it lacks the first, nothing of this kind is known of the image.
        needed: fields of targets that nothing else tells.
        label: what one label is of: an image, an object, ...
        published_classes: of the data set that the paper uses.
        drawn: what of a prediction `draw` shows, such as "score at least 0.4".
        placed: whether labels have a place in the image, which cropping it would cut off.
        mixes: whether labels can be soft, as of images that are mixed.
        scored: whether predictions are rows with a score each, and suppressed: what `Decoding` sets.
        usual_score: from which something is shown, where nothing else is said; of scored and of several labels.
        table: the CSV file with a row a picture, of `row`.
        gathered: the JSON file that lists what all pictures' lines list.
        pictures: the folder of PNG files, of `picture`.
    """

    name: str
    fields: tuple[str, ...]
    needed: tuple[str, ...]
    label: str
    published_classes: int
    drawn: str
    placed = False
    mixes = False
    scored = False
    usual_score = 0.0
    table: str | None = None
    gathered: str | None = None
    pictures: str | None = None

    # ------------------------------------------------------------------------------------- samples and batches

    @abstractmethod
    def unknown(self, canvas: tuple[int, int], classes: int) -> Sample:
        """The fields of an image of `canvas` (H, W) of which nothing is known."""

    def fill(self, sample: Sample, canvas: tuple[int, int], classes: int) -> Sample:
        """The fields of this kind: the sample's own, or unknown ones."""
        if self.fields[0] in sample:
            return {name: sample[name] for name in self.fields}
        return self.unknown(canvas, classes)

    def originals(self, sample: Sample) -> Sample:
        """What evaluation wants of a filled sample as it is on disk, besides what becomes of it as an input."""
        return {}

    def collate(self, samples: list[Sample], *, whole: bool) -> Targets:
        """The targets of a batch; with `whole`, what `originals` gave is among them."""
        return {
            name: torch.stack([torch.as_tensor(sample[name]).as_subclass(Tensor) for sample in samples])
            for name in self.fields
        }

    def complete(self, targets: Any, images: Tensor, *, ids: Tensor) -> Targets:
        """The targets of a batch with all their fields, as evaluation wants them.

        Those of a plain DataLoader may lack what follows from the images (B, C, H, W): they lie as they are on disk,
        are numbered by `ids` (B,), and are labelled throughout. A field that is needed alone may come as a bare tensor.
        """
        fields = {self.needed[0]: targets} if isinstance(targets, Tensor) and len(self.needed) == 1 else targets
        if not isinstance(fields, Mapping) or not set(self.needed) <= set(fields):
            have = ", ".join(map(str, fields)) if isinstance(fields, Mapping) else type(fields).__name__
            raise InputError(
                f"a batch's targets for {self.name} hold {have}: give {' and '.join(self.needed)}, as "
                "mnv2_tasks.kinds tells"
            )
        size = torch.tensor(images.shape[-2:], device=images.device).expand(len(images), 2)
        shared = {"image_id": ids, "size": size, "seen": size}
        return self.follow({**shared, **fields})

    @abstractmethod
    def check(self, targets: Targets, images: Tensor, classes: Sequence[str]) -> None:
        """Raises InputError where completed targets have another shape than said, or a class that there is not."""

    def follow(self, targets: Targets) -> Targets:
        """Targets with the fields that follow from the needed and the shared ones."""
        return targets

    def label_counts(self, split: Any, classes: int) -> tuple[list[int] | None, str]:
        """How often a split has each class, None where that is not known without reading files; and among what."""
        return (split.label_counts().tolist() if hasattr(split, "label_counts") else None), ""

    def is_blank(self, sample: Sample) -> bool | None:
        """Whether a sample's labels are unknown throughout; None where its fields do not tell."""
        return None

    # ------------------------------------------------------------------------------------- predictions and pictures

    def restore(self, prediction: Prediction, seen: tuple[int, int], original: tuple[int, int]) -> Prediction:
        """A prediction in pixels of the input, whose top left `seen` (h, w) is the image, in those of the original."""
        return prediction

    @abstractmethod
    def narrow(self, prediction: Prediction, *, score: Least | None, chosen: Tensor | None) -> Prediction:
        """What is left of a prediction: where it is `scored`, from `score` on, and the `chosen` (K,) bool classes."""

    @abstractmethod
    def draw(
        self,
        image: Tensor,
        shown: Prediction | Targets,
        classes: tuple[str, ...],
        *,
        seen: tuple[int, int],
        least: Least | None = None,
    ) -> Tensor:
        """A prediction or one image's targets on the image, uint8 (3, H', W').

        They are in pixels of an input whose top left `seen` (h, w) is the image. `least` is the lowest score that is
        drawn, of objects and of several labels an image; None: as `drawn` says.
        """

    def fullest(self, classes: int) -> Prediction | None:
        """A prediction whose picture is as large as any; None where the pictures of an image all have one size."""
        return None

    @abstractmethod
    def overlays(
        self, sides: Mapping[str, Any], classes: tuple[str, ...], *, picture: "Picture", least: float
    ) -> dict[str, Any]:
        """What W&B's Image takes besides the pixels to show "ground_truth" and "predictions" of `sides` on them."""

    def words(self, sides: Mapping[str, Any], classes: tuple[str, ...], *, least: float) -> tuple[str, str]:
        """The "ground_truth" and the "predictions" of `sides` in words, for a table: "2 car, person"."""
        certain, predicted = self.certain(sides["ground_truth"]), sides["predictions"]
        true, shown = (Counter(self.labels(one, len(classes), least)) for one in (certain, predicted))
        return _listed(true, classes), _listed(shown, classes)

    def certain(self, target: Mapping[str, Tensor]) -> Prediction:
        """One image's targets as a prediction that is sure of them, for `labels`."""
        return dict(target)

    @abstractmethod
    def counted(self, least: Least) -> str:
        """What `labels` counts, for a line: "images"."""

    @abstractmethod
    def labels(self, prediction: Prediction, classes: int, least: Least) -> list[int]:
        """The classes that a prediction shows, those of a `scored` kind from the score `least` on."""

    @abstractmethod
    def leading(self, prediction: Prediction, classes: tuple[str, ...]) -> int | None:
        """The class that a prediction shows above all; None where it shows none."""

    # ------------------------------------------------------------------------------------- files of predictions

    @abstractmethod
    def line(
        self,
        prediction: Prediction,
        classes: tuple[str, ...],
        *,
        picture: str | None = None,
        least: Least | None = None,
    ) -> Any:
        """A prediction as JSON; `picture` is the path of the PNG file that holds the rest of it, `least` of `draw`."""

    @abstractmethod
    def from_line(self, line: Any, picture: bytes | None) -> Prediction:
        """The prediction that `line` and `picture` made these of."""

    def picture(self, prediction: Prediction) -> bytes:
        """The PNG file of a prediction, of a kind with `pictures`."""
        raise NotImplementedError

    def row(self, line: Any) -> list[Any]:
        """The columns of `table` behind the file's, from a `line`: label, score, and the score of each class."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- exported graphs

    @abstractmethod
    def outputs(self, *, masks: str, nms: str) -> tuple[str, ...]:
        """The names of a graph's outputs, which the task's name precedes."""

    @abstractmethod
    def raw(self, outputs: Any) -> tuple[Tensor, ...]:
        """The tensors of a head's outputs that `decide` decides from, which a quantiser may touch."""

    @abstractmethod
    def decide(self, head: Any, raw: tuple[Tensor, ...], size: tuple[int, int], how: Decided) -> list[Tensor]:
        """The tensors that `outputs` names, in operations that can be traced; `size` is the input's (H, W)."""

    @abstractmethod
    def predictions(self, arrays: Arrays, decoding: Any, suppress: Suppress) -> list[Prediction]:
        """One prediction an image from a graph's outputs, as the head gives them, in pixels of the graph's input."""

    @abstractmethod
    def count(self, metric: Any, predictions: list[Prediction], targets: Targets) -> None:
        """Count a batch's predictions in the frame of the original images, as the head counts its outputs."""

    @abstractmethod
    def difference(self, ours: Arrays, theirs: Arrays, pairs: list[tuple[Prediction, Prediction]]) -> Apart:
        """How far the outputs of two graphs are apart, and their predictions, two of each image.

        largest: the largest difference of a score, a logit, or a box corner in pixels. relative: of the largest value;
        of the image's longer side for boxes. unlike: pixels of another class, or detections without a partner, out of
        the total.
        """


def _listed(counts: Mapping[int, int], classes: tuple[str, ...]) -> str:
    names = [f"{count} {classes[k]}" if count > 1 else classes[k] for k, count in sorted(counts.items())]
    return ", ".join(names) or "nothing"


class Picture(NamedTuple):
    """How an image lies in the picture that a logger shows."""

    image: tuple[int, int]  # its (H, W)
    seen: tuple[int, int]  # the (h, w) of the input that holds it
    canvas: tuple[int, int]  # (H, W) of the picture, in whose upper left it lies


def least_of(least: Least, labels: Tensor) -> Least:
    """Of classes `labels` (N,): one for all, or (N,)."""
    return least[labels] if isinstance(least, Tensor) else least


def check_labels(labels: Tensor, classes: Sequence[str], *, field: str, unknown: int) -> None:
    """Raises InputError for labels that are no numbers of these classes, nor `unknown`."""
    if labels.is_floating_point() or labels.dtype is torch.bool:
        raise InputError(f"a batch's {field} is of {labels.dtype}: give whole numbers, such as torch.int64")
    wrong = labels[(labels != unknown) & ((labels < 0) | (labels >= len(classes)))]
    if len(wrong):
        last = f"{len(classes) - 1} ({classes[-1]})"
        raise InputError(
            f"a batch's {field} has a class {int(wrong[0])}, but the task's go from 0 ({classes[0]}) to {last}, and "
            f"{unknown} is unknown: build the task for all classes, or correct the labels"
        )


def check_shape(values: Tensor, shape: tuple[int, ...], *, field: str) -> None:
    """Raises InputError where a field of a batch is of another shape; -1 stands for any number."""
    if values.ndim != len(shape) or any(b not in (-1, a) for a, b in zip(values.shape, shape, strict=True)):
        wanted = ", ".join("any" if side == -1 else str(side) for side in shape)
        raise InputError(f"a batch's {field} is of shape {tuple(values.shape)}: give ({wanted})")


def apart(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """{"largest", "relative"} difference of two arrays of one shape; a value that is no number is infinitely far."""
    largest = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0))
    largest = largest if np.isfinite(largest) else float("inf")
    return {"largest": largest, "relative": largest / max(float(np.abs(ours).max(initial=0.0)), 1e-12)}
