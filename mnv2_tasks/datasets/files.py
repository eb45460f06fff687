"""Samples from image files: every format on disk says where an image is and what is known of it."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from mnv2_tasks.datasets.images import image_size, read_image

# The fields of a sample for each kind of annotation; one that a sample lacks is unknown for that image.
FIELDS = {
    "classification": ("label",),
    "multilabel": ("presence",),
    "detection": ("boxes", "labels", "crowd", "area"),
    "segmentation": ("mask",),
}


class FileSplit(Dataset[dict[str, Any]]):
    """One side of a data set of image files; a format fills in where they are and their labels.

    Args:
        max_side: an image with a longer side is reduced when it is read, and its labels with it.
    """

    def __init__(self, *, max_side: int | None = None) -> None:
        self.max_side = max_side

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, index: int) -> Path:
        """The image's file."""

    @abstractmethod
    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        """The fields of one image, for an original of `size` (H, W) that was read as one of `canvas` (H, W)."""

    def declared(self, index: int) -> tuple[int, int] | None:
        """The (H, W) that the annotations give for the image; None where they give none."""
        return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample in the one format: "image", "image_id", "size" (H, W) of the original, and its labels."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a split of {len(self)} images")
        path, declared = self.path(index), self.declared(index)
        image = read_image(path, declared=declared, max_side=self.max_side)
        size = declared or image_size(path)
        labels = self.labels(index, size=size, canvas=(image.shape[-2], image.shape[-1]))
        return {"image": image, "image_id": index, "size": size, **labels}
