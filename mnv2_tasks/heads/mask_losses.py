"""The losses of segmenters, which leave unknown pixels out, and the weights of their classes."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import IGNORED

LOSSES = ("cross_entropy", "dice", "lovasz", "focal")
Rule = Literal["balanced", "median_frequency"]


def loss_weights(loss: str | Mapping[str, float]) -> dict[str, float]:
    """One name of `LOSSES`, or {name: weight} -> {name: weight}."""
    weights = {loss: 1.0} if isinstance(loss, str) else {str(name): float(weight) for name, weight in loss.items()}
    if not weights or set(weights) - set(LOSSES) or min(weights.values()) <= 0:
        raise InputError(
            f"head.loss is {loss if isinstance(loss, str) else dict(loss)}: use one of {', '.join(LOSSES)}, or "
            "several with weights above 0, such as {cross_entropy: 1, dice: 0.5}"
        )
    return weights


def losses(
    logits: Tensor, mask: Tensor, weights: Mapping[str, float], *, class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """{`<name>_loss`: float32 scalar}, each times its weight; exactly 0, with gradients of 0, where nothing is known.

    logits: (B, K, H, W); mask: (B, H, W) integers, `IGNORED` where unknown; class_weights: (K,), of the cross-entropy.
    Dice, Lovasz-softmax (arXiv 1705.08790) and focal (arXiv 1708.02002) are segmentation_models_pytorch's.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        found = {name: _one_loss(name, logits, mask.long(), class_weights) for name in weights}
    return {f"{name}_loss": weights[name] * value for name, value in found.items()}


def _one_loss(name: str, logits: Tensor, mask: Tensor, class_weights: Tensor | None) -> Tensor:
    if name == "cross_entropy":  # torch's mean, without its NaN where every pixel is ignored
        total = F.cross_entropy(logits, mask, weight=class_weights, ignore_index=IGNORED, reduction="sum")
        if class_weights is None:
            count = (mask != IGNORED).sum().clamp(min=1)
        else:
            count = F.pad(class_weights, (0, IGNORED + 1 - len(class_weights)))[mask].sum().clamp(min=1e-6)
        return total / count
    from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss

    if name == "dice":
        return DiceLoss("multiclass", ignore_index=IGNORED)(logits, mask)
    if not (mask != IGNORED).any():  # where the other two give NaN, or no scalar
        return logits.sum() * 0
    loss = LovaszLoss if name == "lovasz" else FocalLoss
    return loss("multiclass", ignore_index=IGNORED)(logits, mask)


def class_balance(counts: Tensor, rule: Rule) -> Tensor:
    """(K,) pixels of each class -> (K,) float32 weights whose mean over the known pixels is 1; 0 for an absent class.

    "balanced" is 1 / ln(1.02 + share of the pixels) (ENet, arXiv 1606.02147, section 5.2): within a factor of 36.
    "median_frequency" is the median share over the share (SegNet, arXiv 1511.00561, section 4), here with shares of all
    pixels; it weighs rare classes harder.
    """
    if not counts.sum():
        raise InputError("head.class_weights: no pixel of the training masks is labelled; check the masks, or use null")
    share = counts.double() / counts.sum()
    weights = 1 / (1.02 + share).log() if rule == "balanced" else share[share > 0].quantile(0.5) / share
    weights = torch.where(counts > 0, weights, 0.0)
    return (weights / (weights * share).sum()).float()
