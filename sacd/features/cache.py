"""Cached features: a backbone's maps and logits of every image, in the manifest's order."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sacd.backbones.backbone import Backbone

BATCH = 64


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
    """Mean and deviation of each channel (lists of length C), over images and locations.

    `pooled_std` is the deviation of the spatially averaged features.
    """

    mean: list[float]
    std: list[float]
    pooled_std: list[float]


def measure_statistics(batches: Iterable[Tensor]) -> Statistics:
    """Statistics over batches of features (N, C, h, w), summed in double precision."""
    rows, sums = 0, list[Tensor]()
    for features in batches:
        values = features.double()
        pooled = values.mean((2, 3))
        terms = [pooled.sum(0), (values**2).mean((2, 3)).sum(0), (pooled**2).sum(0)]
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
        rows += len(features)
    mean, square, pooled_square = (total / rows for total in sums)
    # Dead channels (deviation 0) stay finite by a tiny floor.
    std, pooled_std = (
        (second - mean**2).clamp(min=0).sqrt().clamp(min=1e-4) for second in (square, pooled_square)
    )
    return Statistics(mean.tolist(), std.tolist(), pooled_std.tolist())
