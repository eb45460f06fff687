"""Trains a classifier on a folder of one's own with a plain pl.Trainer: no command line of ours, no config files.

    python examples/train_own_folder.py <folder with a folder a class> --weights imagenet

Detectors and segmenters go the same way: `SSDLiteTask` with `Coco(root)`, `Voc(root)` or `Yolo(root)` and size 320,
`DeepLabV3Task` with `Masks(root)` and size 512.
"""

import argparse

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

import mnv2_tasks
from mnv2_tasks import ClassifierTask, DataModule
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.training.callbacks import EMA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="<folder>/<class>/*.jpg, with or without train, val and test above the classes")
    parser.add_argument("--weights", help="imagenet, or a file; none: from scratch")
    parser.add_argument("--width", type=float, default=1.0, help="of the trunk")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--workers", type=int, help="loader processes; none: one a core, at most 8")
    parser.add_argument("--out", default="runs/own_folder", help="folder of the checkpoints")
    options = parser.parse_args()

    pl.seed_everything(0)
    data = DataModule(
        {"photos": ImageFolder(options.folder)},
        ClassifierTask.tasks,
        sizes=options.size,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    data.tell(("train", "val", "test"))
    task = ClassifierTask(data.classes["classifier"], width=options.width, weights=options.weights)

    best = ModelCheckpoint(options.out, filename="best", monitor="val/score", mode="max", save_last=True)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[best, EMA()],
        gradient_clip_val=20.0,
        default_root_dir=options.out,
    )
    trainer.fit(task, data)
    trainer.validate(task, data, ckpt_path=best.best_model_path)

    model = mnv2_tasks.load(best.best_model_path)
    picture = data.split("photos", "val").path(0)
    (found,) = model.predict(picture)
    scores = found["classifier"]["scores"]
    print(f"{picture}: {model.classes['classifier'][scores.argmax()]} ({scores.max():.2f})")
    print(f"checkpoint: {best.best_model_path}")


if __name__ == "__main__":
    main()
