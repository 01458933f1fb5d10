"""Training-free guidance: the same frozen prior, pulled at every step by the feature distance.

Universal guidance (Bansal et al. 2023, arXiv 2302.07121) and FreeDoM (Yu et al. 2023, arXiv
2303.09833) by the distance of features, as arXiv 2509.07936 and 2603.21782 use it to invert them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
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
    scheduler = DDIMScheduler.from_config(
        prior.scheduler.config,
        timestep_spacing="trailing",
        clip_sample=False,  # its default, where a prior's config says nothing, is for pixels
    )
    scheduler.set_timesteps(guidance.steps, device=noise.device)
    times = scheduler.timesteps.tolist()
    signals = [*(float(scheduler.alphas_cumprod[time]) for time in times), 1.0]
    prompts, latents, travels = prior.prompts(len(noise)), noise, 0
    for number, time in enumerate(times):
        for recurrence in range(guidance.recurrences):
            noisy = latents.detach().requires_grad_()
            predicted = prior.unet(noisy, time, prompts).sample.float()
            step = scheduler.step(predicted, time, noisy)
            clean = decode(prior.vae, step.pred_original_sample)
            distances = relative_distance(backbone(clean)[0], features)
            (gradient,) = torch.autograd.grad(distances.sum(), noisy)
            length = guidance.strength * (1 - signals[number]) ** 0.5 * noise[0].numel() ** 0.5
            latents = step.prev_sample.detach() - length * _directions(gradient)
            if recurrence + 1 < guidance.recurrences:
                kept = signals[number] / signals[number + 1]
                latents = kept**0.5 * latents + (1 - kept) ** 0.5 * fresh_noise(travels)
                travels += 1
    return latents


def _directions(gradient: Tensor) -> Tensor:
    """Each row scaled to length one."""
    lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient / lengths[:, None, None, None]
