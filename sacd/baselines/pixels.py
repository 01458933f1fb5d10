"""Inversion by optimisation of pixels (Mahendran & Vedaldi 2015, arXiv 1412.0035)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.features.distance import relative_distance

START_DEVIATION = 0.1  # of the noise around grey at which the search begins
NORM_POWER = 6  # alpha in the paper


@dataclass(frozen=True)
class PixelSearch:
    """How long is searched, and how much the image priors weigh against the features.

    `variation` weighs the total variation (beta 2), `norm` the bounded range; both are means over
    pixels.
    """

    steps: int
    learning_rate: float
    variation: float
    norm: float


@torch.enable_grad()
def optimise_pixels(
    backbone: Backbone, features: Tensor, noise: Tensor, search: PixelSearch
) -> tuple[Tensor, Tensor]:
    """Search images (N, 3, H, W) in [0, 1] whose features (N, C, h, w) match.

    noise: standard normal (N, 3, H, W), where the search begins. Returns the images and their final
    losses (N,), by which restarts compete. Adam instead of the paper's gradient descent with
    momentum: it needs fewer steps. Rows don't influence one another.
    """
    images = (0.5 + START_DEVIATION * noise).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=search.learning_rate)
    for _ in range(search.steps):
        losses = _losses(backbone, images, features, search)
        (images.grad,) = torch.autograd.grad(losses.sum(), images)
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    with torch.no_grad():
        return images.detach(), _losses(backbone, images, features, search)


def _losses(backbone: Backbone, images: Tensor, features: Tensor, search: PixelSearch) -> Tensor:
    distances = relative_distance(backbone(images)[0], features)
    norms = (2 * images - 1).abs().pow(NORM_POWER).mean((1, 2, 3))
    return distances + search.variation * total_variation(images) + search.norm * norms


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference to the right and lower neighbour: (N, 3, H, W) -> (N,)."""
    right = images[..., :, 1:] - images[..., :, :-1]
    below = images[..., 1:, :] - images[..., :-1, :]
    return right.square().mean((1, 2, 3)) + below.square().mean((1, 2, 3))
