"""Invert one image and save original and samples side by side."""

import torch

from sacd.errors import SacdError
from sacd.metrics.features import feature_scores
from stages.one_image import Request, draw, image_format, save_mosaic


def invert(request: Request) -> None:
    """Write `request.out` (by its extension) and print the feature cosine of every sample."""
    samples, out = request.samples, request.out
    if samples < 1:
        raise SacdError("--samples must be at least 1.")
    image_format(out)  # before anything is computed
    drawn = draw(request)
    original = drawn.original[None]
    save_mosaic(torch.cat([original, drawn.samples]), samples + 1, out)
    truth, ours = (drawn.inverter.features(seen).cpu() for seen in (original, drawn.samples))
    scores = feature_scores(ours, truth.expand(samples, -1, -1, -1))
    for number, cosine in enumerate(scores["cos_median"].tolist()):
        print(f"sample {number + 1}: cos_median {cosine:.3f}")
    print(f"{out}: the original, then {samples} samples")
