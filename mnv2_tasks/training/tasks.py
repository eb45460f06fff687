"""What a Python user builds without Hydra: heads on a trunk, whose checkpoints tell how to build them again."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError, quote, shorten
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.mask_losses import Rule
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.kinds import CLASSIFICATION, DETECTION, SEGMENTATION
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.training.loss_balance import Balance
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.parts import Part, agreed_stride, class_of, section, settings_of
from mnv2_tasks.training.schedules import warmup_cosine
from mnv2_tasks.weights.pretrained import fill_backbone

Optimizer = Callable[..., torch.optim.Optimizer]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in 0..1
SGD: Optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=4e-5)


class JointTask(MultiTask):
    """Any heads on one trunk, to train with a plain `pl.Trainer`; `mnv2_tasks.load` reads its checkpoints.

    With a `DataModule`, heads learn from the training data first what they ask for, and a data set of other classes is
    refused. With loaders of one's own, batches are as `MultiTask` says, and the first one tells the size of images.

    Args:
        heads: {task: its head's class, or `functools.partial` of it with settings}.
        classes: {task: its class names}, such as a `DataModule`'s.
        backbone: the trunk's class, or a partial; `output_stride` is what the heads like best, where it is not given.
        weights: "imagenet" or a file, as `weights.pretrained.fill_backbone` takes them; None: from scratch.
        mean, std: of the images in 0..1, a value a channel.
        optimizer, schedule, balance, backbone_lr: as in `MultiTask`.

    The weights at the start come from torch's random numbers: call `pl.seed_everything` before.
    """

    def __init__(
        self,
        heads: Mapping[str, Part],
        classes: Mapping[str, Sequence[str]],
        *,
        backbone: Part = MobileNetV2,
        weights: str | Path | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        optimizer: Optimizer = SGD,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = warmup_cosine,
        balance: Balance | None = None,
        backbone_lr: float = 1.0,
    ) -> None:
        if set(heads) != set(classes):
            raise InputError(f"classes are of {', '.join(classes)}: give those of the heads {', '.join(heads)}")
        names: Classes = {task: tuple(classes[task]) for task in heads}
        trunk = settings_of(backbone)
        trunk.setdefault("output_stride", agreed_stride({task: class_of(head).strides for task, head in heads.items()}))
        made = class_of(backbone)(**trunk)
        if len(mean) != made.stem[0].in_channels or len(std) != len(mean):
            raise InputError(f"mean and std: give a value for each of the {made.stem[0].in_channels} channels")
        built = {task: head(made.taps, len(names[task])) for task, head in heads.items()}
        config = {
            "backbone": {**section(backbone, trunk), "mean": list(mean), "std": list(std), "weights": None},
            "heads": {task: {**section(head), "_partial_": True} for task, head in heads.items()},
        }
        super().__init__(
            Model(made, built, mean=mean, std=std),
            names,
            config=config,
            optimizer=optimizer,
            schedule=schedule,
            balance=balance,
            backbone_lr=backbone_lr,
        )
        if told := fill_backbone(made, weights):
            rank_zero_only(print)(f"backbone: {told}")
        self._has_learned = False

    def setup(self, stage: str) -> None:
        """Raises InputError where data and heads do not go together."""
        super().setup(stage)
        module = getattr(self.trainer, "datamodule", None)
        data = module if isinstance(module, DataModule) else None
        if data is not None:
            self._refuse_others(data)
        if stage != "fit":
            return
        if not self._has_learned and not self.trainer.ckpt_path:  # a checkpoint brings it
            self._learn(data)
        self._has_learned = True
        if data is not None:
            sizes = {source: list(size) for source, size in data.sizes.items()}
            size = sizes if len(sizes) > 1 else next(iter(sizes.values()))
            self._tell(size=size, fit=data.fit, depth=data.depth, seed=data.seed)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        super().on_train_batch_start(batch, index)
        assert self.config is not None
        if "size" not in self.config:
            shapes = [list(images.shape[-2:]) for images, _ in self._named(batch)]
            self._tell(size=max(shapes, key=lambda shape: shape[0] * shape[1]), fit="stretch", depth=16)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._has_learned = True

    def _tell(self, **settings: Any) -> None:
        """What `load` and the commands have to know of the images."""
        self.config = {**(self.config or {}), **settings}

    def _learn(self, data: DataModule | None) -> None:
        for task, head in self.model.heads.items():
            if not head.learns:
                continue
            if data is None:
                raise InputError(
                    f"{task}: fits itself to the training data, which a DataLoader cannot tell in advance: give the "
                    "Trainer a DataModule, or build the task with boxes='original', class_weights=None"
                )
            try:
                told = head.learn_from(data.split(data.source_of(task), "train"))
            except InputError as error:
                raise InputError(f"{task}: {error}") from error
            rank_zero_only(print)(f"{task}: {told}")

    def _refuse_others(self, data: DataModule) -> None:
        if set(data.tasks) != set(self.classes):
            raise InputError(f"the data is for {', '.join(data.tasks)}, and the heads are {', '.join(self.classes)}")
        for task, names in self.classes.items():
            if data.classes[task] != names:
                theirs = data.classes[task]
                raise InputError(
                    f"{task}: built for {len(names)} classes ({shorten(', '.join(names), 100)}), and the data has "
                    f"{len(theirs)} ({shorten(', '.join(theirs), 100)}); build it of data.classes[{task!r}]"
                )
        if data.channels != len(self.model.mean):
            raise InputError(f"images have {data.channels} channels, and the trunk takes {len(self.model.mean)}")
        shares = self.trainer._accelerator_connector.use_distributed_sampler
        if self.trainer.world_size > 1 and shares:
            raise InputError("a DataModule shares images out by itself: pl.Trainer(use_distributed_sampler=False)")


class ClassifierTask(JointTask):
    """A classifier on a trunk of its own: `ClassifierTask(("cat", "dog"), weights="imagenet")`.

    Args:
        classes: their names, or how many.
        width: of the trunk.
        weights: see `JointTask`.
        freeze: the trunk stays as it is: True, or for so many epochs.
        dropout, label_smoothing, class_weights: of the head, see `heads.classifier.Classifier`.
        lr, weight_decay: of AdamW; the rate rises over the first 5% of the steps and falls along a half cosine.
        backbone_lr: learning rate of the trunk over that of the head.
    """

    tasks = {"classifier": CLASSIFICATION}

    def __init__(
        self,
        classes: Sequence[str] | int,
        *,
        width: float = 1.0,
        weights: str | Path | None = None,
        freeze: bool | int = False,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
        backbone_lr: float = 1.0,
    ) -> None:
        classes = names_of(classes)
        head = partial(Classifier, dropout=dropout, label_smoothing=label_smoothing, class_weights=class_weights)
        super().__init__(
            {"classifier": head},
            {"classifier": classes},
            backbone=partial(MobileNetV2, width=width, freeze=freeze),
            weights=weights,
            optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=weight_decay),
            backbone_lr=backbone_lr,
        )
        self.save_hyperparameters(ignore=["weights"])


class SSDLiteTask(JointTask):
    """A detector on a trunk of its own: `SSDLiteTask(("cat", "dog"), weights="imagenet")`.

    Args:
        classes: their names, or how many.
        width: of the trunk.
        weights: see `JointTask`.
        freeze: the trunk stays as it is: True, or for so many epochs.
        sources, boxes, loss, least: of the head, see `heads.ssdlite.SSDLite`. boxes="fit" asks for a `DataModule`.
        lr, weight_decay: of SGD with momentum 0.9; the rate rises over the first 5% of the steps and falls along a half
            cosine.
        backbone_lr: learning rate of the trunk over that of the head.
    """

    tasks = {"ssdlite": DETECTION}

    def __init__(
        self,
        classes: Sequence[str] | int,
        *,
        width: float = 1.0,
        weights: str | Path | None = None,
        freeze: bool | int = False,
        sources: Sequence[str] = ("c4x", "c5x"),
        boxes: Literal["original", "fit"] = "fit",
        loss: Literal["hard_negative", "focal"] = "hard_negative",
        least: int = 4,
        lr: float = 0.05,
        weight_decay: float = 4e-5,
        backbone_lr: float = 1.0,
    ) -> None:
        classes = names_of(classes)
        super().__init__(
            {"ssdlite": partial(SSDLite, sources=sources, boxes=boxes, loss=loss, least=least)},
            {"ssdlite": classes},
            backbone=partial(MobileNetV2, width=width, freeze=freeze),
            weights=weights,
            optimizer=partial(SGD, lr=lr, weight_decay=weight_decay),
            backbone_lr=backbone_lr,
        )
        self.save_hyperparameters(ignore=["weights"])


class DeepLabV3Task(JointTask):
    """A segmenter on a trunk of its own: `DeepLabV3Task(("background", "road"), weights="imagenet")`.

    Args:
        classes: their names, with the background where there is one, or how many.
        width: of the trunk.
        weights: see `JointTask`.
        freeze: the trunk stays as it is: True, or for so many epochs.
        skips, loss, class_weights: of the head, see `heads.deeplabv3.DeepLabV3`.
        lr, weight_decay: of SGD with momentum 0.9; the rate rises over the first 5% of the steps and falls along a half
            cosine.
        backbone_lr: learning rate of the trunk over that of the head.
    """

    tasks = {"deeplabv3": SEGMENTATION}

    def __init__(
        self,
        classes: Sequence[str] | int,
        *,
        width: float = 1.0,
        weights: str | Path | None = None,
        freeze: bool | int = False,
        skips: Sequence[str] = (),
        loss: str | Mapping[str, float] = "cross_entropy",
        class_weights: Rule | Sequence[float] | None = None,
        lr: float = 0.05,
        weight_decay: float = 4e-5,
        backbone_lr: float = 1.0,
    ) -> None:
        classes = names_of(classes)
        super().__init__(
            {"deeplabv3": partial(DeepLabV3, skips=skips, loss=loss, class_weights=class_weights)},
            {"deeplabv3": classes},
            backbone=partial(MobileNetV2, width=width, freeze=freeze),
            weights=weights,
            optimizer=partial(SGD, lr=lr, weight_decay=weight_decay),
            backbone_lr=backbone_lr,
        )
        self.save_hyperparameters(ignore=["weights"])


def names_of(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Class names; of a number, "0", "1", ..."""
    if isinstance(classes, str) or (isinstance(classes, int) and classes < 1) or not classes:
        raise InputError(f"classes={quote(classes)}: give their names, such as ('cat', 'dog'), or how many there are")
    return tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
