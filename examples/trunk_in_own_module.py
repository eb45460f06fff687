"""The trunk alone in a module of one's own, trained by an ordinary PyTorch loop: it learns to count objects.

    python examples/trunk_in_own_module.py                         drawn scenes, from scratch
    python examples/trunk_in_own_module.py --weights <file>        .pth, .safetensors, .npz or .ckpt

The trunk gives named taps; it declares the channels and the stride of each, so that no number of its inside is
written here. Only the layers up to the deepest tap that is kept are computed.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mnv2_tasks import MobileNetV2
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.weights.pretrained import fill_backbone

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what ImageNet's weights were trained with


class Counter(nn.Module):
    """(B, 3, H, W) in 0..1 -> (B,) how many objects there are, from a fine tap and a coarse one."""

    def __init__(self, *, width: float, weights: str | None) -> None:
        super().__init__()
        self.trunk = MobileNetV2(width, output_stride=16)
        print(fill_backbone(self.trunk, weights) or "trunk: from scratch")
        self.trunk.keep(["c3", "c5"])
        for name in self.trunk.kept:
            print(
                f"{name}: {self.trunk.taps[name].channels} channels, a cell every {self.trunk.taps[name].stride} pixels"
            )
        self.squeeze = nn.ModuleDict({n: nn.Conv2d(self.trunk.taps[n].channels, 32, 1) for n in self.trunk.kept})
        self.count = nn.Conv2d(64, 1, 1)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        taps = self.trunk(
            (images - self.mean) / self.std
        )  # {"c3": (B, 32 width, H / 8, W / 8), "c5": (B, ., H / 16, .)}
        coarse = F.interpolate(self.squeeze["c5"](taps["c5"]), taps["c3"].shape[-2:])
        density = self.count(torch.cat([self.squeeze["c3"](taps["c3"]), coarse], 1))  # (B, 1, H / 8, W / 8)
        return F.softplus(density).mean((1, 2, 3)) * 10


def collate(samples: list[dict]) -> tuple[Tensor, Tensor]:
    images = torch.stack([sample["image"] for sample in samples]).float() / 255
    return images, torch.tensor([float(len(sample["boxes"])) for sample in samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="imagenet, or a file; none: from scratch")
    parser.add_argument("--width", type=float, default=1.0, help="of the trunk")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    torch.manual_seed(0)
    scenes = Scenes(options.size, train=options.images, val=options.images // 4)
    train = DataLoader(scenes.split("train"), batch_size=16, shuffle=True, drop_last=True, collate_fn=collate)
    val = DataLoader(scenes.split("val"), batch_size=16, collate_fn=collate)
    model = Counter(width=options.width, weights=options.weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(options.epochs):
        model.train()
        for images, counts in train:
            loss = F.smooth_l1_loss(model(images), counts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            errors = torch.cat([(model(images) - counts).abs() for images, counts in val])
        print(f"epoch {epoch}: off by {errors.mean():.2f} objects an image")


if __name__ == "__main__":
    main()
