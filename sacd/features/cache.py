"""Cached features: a backbone's maps and logits of every image, in the manifest's order."""

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
