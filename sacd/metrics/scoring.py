"""All per-image scores of a batch of reconstructions, in one table."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from diffusers import UNet2DModel
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.metrics.features import class_scores, feature_scores, mean_pairwise_distance
from sacd.metrics.images import image_scores, image_spread
from sacd.metrics.segmenter import mask_iou, mask_logits


@dataclass(frozen=True)
class Truth:
    """What reconstructions are compared with: N test images and all that is known of them.

    Attributes:
        ids: image ids.
        images: uint8 (N, 3, H, W).
        features, judge_features: (N, C, h, w) of the inverted backbone and of the judge.
        logits, judge_logits: (N, classes), or None where a network has no head.
        masks: bool (N, H, W) of the true object, or None.
    """

    ids: list[str]
    images: Tensor
    features: Tensor
    logits: Tensor | None
    judge_features: Tensor
    judge_logits: Tensor | None
    masks: Tensor | None

    def rows(self, start: int, stop: int) -> "Truth":
        """A block of images."""
        cut: dict[str, Any] = {
            name: None if value is None else value[start:stop] for name, value in vars(self).items()
        }
        return Truth(**cut)


@dataclass(frozen=True)
class Eyes:
    """The networks that look at reconstructions."""

    backbone: Backbone
    judge: Backbone
    segmenter: UNet2DModel | None
    device: torch.device


@torch.no_grad()
def score_batch(truth: Truth, samples: Tensor, eyes: Eyes) -> tuple[pd.DataFrame, Tensor]:
    """Score K samples of each of N images.

    samples: uint8 (N, K, 3, H, W), as decoded: features are computed anew from 8-bit images.
    Returns one row an (image, sample), and the judge's pooled features (N, C) of each image's first
    sample: distances of sets depend on how many they hold, so all sets get one an image.
    """
    count, repeats = samples.shape[:2]
    ours = samples.flatten(0, 1).to(eyes.device).float() / 255
    scores = _seen_by(eyes.backbone, ours, truth.features, truth.logits, repeats, "")
    features = scores.pop("features")
    judged = _seen_by(eyes.judge, ours, truth.judge_features, truth.judge_logits, repeats, "judge_")
    judge_features = judged.pop("judge_features")
    scores |= judged
    scores |= image_scores(ours.cpu(), truth.images.repeat_interleave(repeats, 0).float() / 255)
    if eyes.segmenter is not None and truth.masks is not None:
        found = mask_logits(eyes.segmenter, ours).cpu() > 0
        scores["object_iou"] = mask_iou(found, truth.masks.repeat_interleave(repeats, 0))
    if repeats > 1:
        grouped = features.unflatten(0, (count, repeats))
        scores["spread_image"] = image_spread(samples.float() / 255).repeat_interleave(repeats)
        scores["spread_features"] = mean_pairwise_distance(grouped).repeat_interleave(repeats)
    table = pd.DataFrame({name: value.float().numpy() for name, value in scores.items()})
    table.insert(0, "image_id", [name for name in truth.ids for _ in range(repeats)])
    table.insert(1, "sample", list(range(repeats)) * count)
    return table, judge_features[::repeats].mean((2, 3))


def _seen_by(
    backbone: Backbone,
    ours: Tensor,
    features: Tensor,
    logits: Tensor | None,
    repeats: int,
    prefix: str,
) -> dict[str, Tensor]:
    """Feature and class scores of images (N*K, 3, H, W), and their features, named by `prefix`."""
    seen, seen_logits = (None if value is None else value.cpu() for value in backbone(ours))
    assert seen is not None
    scores = feature_scores(seen, features.repeat_interleave(repeats, 0))
    if logits is not None and seen_logits is not None:
        scores |= class_scores(seen_logits, logits.repeat_interleave(repeats, 0))
    return {f"{prefix}{name}": value for name, value in {**scores, "features": seen}.items()}
