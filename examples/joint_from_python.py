"""Three heads on one trunk, built, trained and read back from Python.

    python examples/joint_from_python.py                 drawn scenes, which have all three kinds of labels

Data sets of their own are more sources: `DataModule({"photos": ImageFolder(...), "streets": Masks(...)}, ...)` with
`sizes={"photos": 224, ...}`; each task learns from the first that has its kind of labels.
"""

import argparse
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

import mnv2_tasks
from mnv2_tasks import DataModule, JointTask, MobileNetV2
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.training.callbacks import EMA
from mnv2_tasks.training.loss_balance import Uncertainty

HEADS = {
    "classifier": Classifier,
    "ssdlite": partial(SSDLite, boxes="fit", least=4),
    "deeplabv3": partial(DeepLabV3, skips=["c3x"]),
}
KINDS = {"classifier": Classifier.kind, "ssdlite": SSDLite.kind, "deeplabv3": DeepLabV3.kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="imagenet, or a file; none: from scratch")
    parser.add_argument("--width", type=float, default=0.5, help="of the trunk")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, help="loader processes; none: one a core, at most 8")
    parser.add_argument("--out", default="runs/joint", help="folder of the checkpoints")
    options = parser.parse_args()

    pl.seed_everything(0)
    scenes = Scenes(options.size, train=options.images, val=options.images // 4)
    data = DataModule({"scenes": scenes}, KINDS, sizes=options.size, batch_size=16, workers=options.workers)
    task = JointTask(
        HEADS,
        data.classes,
        backbone=partial(MobileNetV2, width=options.width),
        weights=options.weights,
        optimizer=partial(torch.optim.AdamW, lr=2e-3, weight_decay=1e-2),
        balance=Uncertainty(tuple(HEADS)),
    )
    best = ModelCheckpoint(options.out, filename="best", monitor="val/score", mode="max")
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[best, EMA()],
        gradient_clip_val=20.0,
        default_root_dir=options.out,
    )
    trainer.fit(task, data)
    trainer.validate(task, data, ckpt_path=best.best_model_path)

    model = mnv2_tasks.load(best.best_model_path)
    (found,) = model.predict([scenes.split("val")[0]["image"]])
    print(f"class: {model.classes['classifier'][found['classifier']['scores'].argmax()]}")
    print(f"objects: {len(found['ssdlite']['boxes'])}, the best {found['ssdlite']['scores'][:1].tolist()}")
    print(f"mask: {tuple(found['deeplabv3']['mask'].shape)}")
    print(f"checkpoint: {best.best_model_path}")


if __name__ == "__main__":
    main()
