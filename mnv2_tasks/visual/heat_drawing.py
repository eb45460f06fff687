"""Heat maps over pictures."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mnv2_tasks.visual.drawing import draw_label, fit_view, to_pil

COLD, HOT = 0.35, 0.75  # opacity of the colours where a map is 0, and where it is 1


def draw_heat(
    image: Tensor, heat: Tensor, label: int | None, classes: tuple[str, ...], *, score: float | None = None
) -> Tensor:
    """A heat map over an image, from dark to bright, and the class (with its score) that it is of.

    image uint8 (3, H, W); heat (h, w) float in 0..1 of the same part of the world at any size; without a label
    "nothing" stands there. Returns uint8 (3, H', W') on the CPU, of the size that `draw_boxes` gives.
    """
    from matplotlib import colormaps

    assert heat.ndim == 2, "heat: (H, W)"
    picture = fit_view(to_pil(image))
    small = Image.fromarray(heat.detach().cpu().numpy().astype(np.float32))
    shades = np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR))
    pixels, opacity = np.asarray(picture).astype(np.float32), (COLD + (HOT - COLD) * shades)[..., None]
    pixels += opacity * (255 * colormaps["inferno"](shades)[..., :3] - pixels)
    heated = torch.from_numpy(pixels.round().astype(np.uint8)).permute(2, 0, 1).contiguous()
    labels = torch.tensor([] if label is None else [label], dtype=torch.int64)
    scores = None if score is None or label is None else torch.tensor([score])
    return draw_label(heated, labels, classes, scores=scores, empty="nothing")
