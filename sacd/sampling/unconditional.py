"""What a prior draws by itself: the stochastic solver, guided against smoothed self-attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sacd.prior.attention import smoothed_attention
from sacd.prior.prior import Prior
from sacd.sampling.sampler import Interval, integrate


@torch.no_grad()
def sample_prior(
    prior: Prior, noise: Tensor, guidance: float, guidance_interval: Interval
) -> Tensor:
    """Draw latents (N, c, H, W) from the prior alone, in S steps.

    noise: (N, S + 1, c, H, W), what the drawing starts from and what each step adds. Where no
    features hold a scene together, the steps' fresh noise corrects the errors of those before.

    Smoothed energy guidance (Hong 2024) stands in for that of features against none: it contrasts
    the prior with itself under `smoothed_attention`, e = e_smooth + guidance (e - e_smooth), so
    that what is drawn agrees with itself over a distance. A guidance of 1 is the prior as it is. It
    acts within `guidance_interval`: at high noise it makes scenes alike.
    """
    start, *added = noise.unbind(1)
    prompts = prior.prompts(len(noise))
    low, high = (end * prior.process.timesteps for end in guidance_interval)

    def predict(unet: Callable[..., Any], latents: Tensor, time: Tensor) -> Tensor:
        return unet(latents, time.expand(len(latents)), prompts).sample.float()

    def guided(latents: Tensor, time: Tensor) -> Tensor:
        predicted = predict(prior.unet, latents, time)
        if guidance == 1 or not low <= time < high:
            return predicted
        with smoothed_attention(prior.unet) as smoothed:
            smooth = predict(smoothed, latents, time)
        return smooth + guidance * (predicted - smooth)

    return integrate(prior, guided, start, len(added), added)
