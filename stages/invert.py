"""Invert one image and save original and samples side by side."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import atomic
from sacd.metrics.features import feature_scores
from stages.one_image import Request, draw

GAP = 4  # white pixels between pictures


def invert(request: Request) -> None:
    """Write `request.out` (by its extension) and print the feature cosine of every sample."""
    samples, out = request.samples, request.out
    if samples < 1:
        raise SacdError("--samples must be at least 1.")
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise SacdError(f"--out {out}: unknown image type '{out.suffix}'; name it .png, say.")
    drawn = draw(request)
    original = drawn.original[None]
    _save_row(torch.cat([original, drawn.samples]), out)
    truth, ours = (drawn.inverter.features(seen).cpu() for seen in (original, drawn.samples))
    scores = feature_scores(ours, truth.expand(samples, -1, -1, -1))
    for number, cosine in enumerate(scores["cos_median"].tolist()):
        print(f"sample {number + 1}: cos_median {cosine:.3f}")
    print(f"{out}: the original, then {samples} samples")


def _save_row(images: Tensor, out: Path) -> None:
    """uint8 images (N, 3, S, S) in a row on white."""
    size = images.shape[-1]
    row = np.full((size, len(images) * (size + GAP) - GAP, 3), 255, np.uint8)
    for number, picture in enumerate(images.permute(0, 2, 3, 1).numpy()):
        left = number * (size + GAP)
        row[:, left : left + size] = picture
    with atomic(out) as temporary:
        Image.fromarray(row).save(
            temporary, format=Image.registered_extensions()[out.suffix.lower()]
        )
