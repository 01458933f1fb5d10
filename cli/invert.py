"""Invert one image and save original and samples side by side."""

import torch

from cli.one_image import Request, draw, image_format, open_request, save_mosaic
from sacd.metrics.features import feature_scores


def invert(request: Request) -> None:
    """Write `request.out` (by its extension) and print the feature cosine of every sample."""
    image_format(request.out)  # before anything is computed
    opened = open_request(request)
    truth = opened.inverter.features(opened.images)
    samples = draw(request, opened, truth)[0]
    save_mosaic(torch.cat([opened.images, samples]), len(samples) + 1, request.out)
    ours = opened.inverter.features(samples).cpu()
    scores = feature_scores(ours, truth.cpu().expand_as(ours))
    for number, cosine in enumerate(scores["cos_median"].tolist()):
        print(f"sample {number + 1}: cos_median {cosine:.3f}")
    print(f"{request.out}: the original, then {len(samples)} samples")
