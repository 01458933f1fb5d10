"""Refinement of drawn latents by the gradient of the feature distance."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.features.distance import relative_distance
from sacd.prior.prior import Prior
from sacd.prior.vae import decode


@dataclass(frozen=True)
class Refinement:
    """Adam's `steps` and learning `rate`, in units of the latents (deviation about 1)."""

    steps: int
    rate: float


@torch.enable_grad()
def refine_latents(
    prior: Prior, backbone: Backbone, latents: Tensor, features: Tensor, refinement: Refinement
) -> Tensor:
    """Move latents (N, c, H, W) towards decoded images with the features (N, C, h, w).

    A few small steps from where the prior put them: far from there latents decode to textures that
    please the backbone and no one else. Rows don't influence one another.
    """
    refined = latents.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([refined], lr=refinement.rate)
    for _ in range(refinement.steps):
        distances = relative_distance(backbone(decode(prior.vae, refined))[0], features)
        (refined.grad,) = torch.autograd.grad(distances.sum(), refined)
        optimizer.step()
    return refined.detach()
