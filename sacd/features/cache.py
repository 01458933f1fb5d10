"""Cached features: a backbone's maps and logits of every image, in the manifest's order."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sacd.backbones.backbone import Backbone

BATCH = 64
LEAST_DEVIATION = 1e-4  # of a channel that hardly varies, so that one may divide by it


@torch.no_grad()
def extract(backbone: Backbone, images: Tensor, device: torch.device) -> dict[str, Tensor]:
    """uint8 images (N, 3, H, W) -> fp16 "features" (N, C, h, w) and, with a head, "logits"."""
    maps, logits = [], []
    for batch in images.split(BATCH):
        features, scores = backbone(batch.to(device).float() / 255)
        maps.append(features.half().cpu())
        if scores is not None:
            logits.append(scores.half().cpu())
    found = {"features": torch.cat(maps)}
    if logits:
        found["logits"] = torch.cat(logits)
    return found


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each channel (lists of length C), over images and locations."""

    mean: list[float]
    std: list[float]


def measure_statistics(batches: Iterable[Tensor]) -> Statistics:
    """Statistics over batches of features (N, C, h, w), summed in double precision."""
    rows, total, squares = 0, torch.zeros(()), torch.zeros(())
    for features in batches:
        values = features.double()
        total = total + values.mean((2, 3)).sum(0)
        squares = squares + (values**2).mean((2, 3)).sum(0)
        rows += len(features)
    mean = total / rows
    std = (squares / rows - mean**2).clamp(min=LEAST_DEVIATION**2).sqrt()
    return Statistics(mean.tolist(), std.tolist())
