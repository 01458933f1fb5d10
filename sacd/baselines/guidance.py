"""Training-free guidance: the same frozen prior, pulled at every step by the feature distance.

Universal guidance (Bansal et al. 2023, arXiv 2302.07121) and FreeDoM (Yu et al. 2023, arXiv
2303.09833) by the distance of features, as arXiv 2509.07936 and 2603.21782 use it to invert them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.features.distance import relative_distance
from sacd.prior.prior import Prior
from sacd.prior.vae import decode


@dataclass(frozen=True)
class FeatureGuidance:
    """`strength`: length of a pull over that of the noise in the latents; `recurrences`: how often
    each of the `steps` is taken, with fresh noise in between (time travel)."""

    steps: int
    strength: float
    recurrences: int


@torch.enable_grad()
def guided_latents(
    prior: Prior,
    backbone: Backbone,
    features: Tensor,
    noise: Tensor,
    fresh_noise: Callable[[int], Tensor],
    guidance: FeatureGuidance,
) -> Tensor:
    """Draw latents (N, c, H, W) whose decoded images have the features (N, C, h, w).

    `fresh_noise(i)` gives the noise of the i-th time travel, shaped as `noise`. At each step the
    latents' clean estimate is decoded and looked at; the gradient of the distance with respect to
    the noisy latents, through U-Net, decoder and backbone, gives the direction of the pull.
    """
    process, prompts = prior.process, prior.prompts(len(noise))
    descent = process.descent(guidance.steps)
    levels = [*(process.level(time) for time, _ in descent), (1.0, 0.0)]
    latents, travels = noise, 0
    for number, (time, below) in enumerate(descent):
        (signal, level), (next_signal, next_level) = levels[number : number + 2]
        for recurrence in range(guidance.recurrences):
            noisy = latents.detach().requires_grad_()
            predicted = prior.unet(noisy, time, prompts).sample.float()
            clean, rest = process.estimate(noisy, predicted, time)
            distances = relative_distance(backbone(decode(prior.vae, clean))[0], features)
            (gradient,) = torch.autograd.grad(distances.sum(), noisy)
            if below is not None:
                clean = process.noisy(clean, rest, torch.tensor([below], device=clean.device))
            length = guidance.strength * level * noise[0].numel() ** 0.5
            latents = clean.detach() - length * _directions(gradient)
            if recurrence + 1 < guidance.recurrences:
                kept = signal / next_signal
                added = (level**2 - (kept * next_level) ** 2) ** 0.5
                latents = kept * latents + added * fresh_noise(travels)
                travels += 1
    return latents


def _directions(gradient: Tensor) -> Tensor:
    """Each row scaled to length one."""
    lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient / lengths[:, None, None, None]
