"""The sampling loop: from noise to latents, guided by features against the null feature."""

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from sacd.adapters.controlnet import ControlNetAdapter
from sacd.prior.prior import Prior


@torch.no_grad()
def sample_latents(
    prior: Prior,
    adapter: ControlNetAdapter,
    features: Tensor | None,
    noise: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    """Draw latents (N, c, H, W), one for each row of `noise`.

    features: (N, C, h, w), or None for the null feature (the prior by itself). Guidance contrasts
    features against the null feature, e = e_null + guidance (e_feature - e_null) (Ho & Salimans
    2022), in one pass of twice the batch; a guidance of 1 needs only the features' half. The
    solver is DPM-Solver++ 2M (Lu et al. 2022), which adds no noise on its way.
    """
    scheduler = solver(prior)
    scheduler.set_timesteps(steps, device=noise.device)
    count = len(noise)
    hint = adapter.null_hint(count) if features is None else adapter.hint(features)
    guided = features is not None and guidance != 1
    if guided:
        hint = torch.cat([adapter.null_hint(count), hint])
    prompts = prior.prompts(len(hint))
    latents = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, time)
        times = time.expand(len(hint))
        repeated = torch.cat([scaled, scaled]) if guided else scaled
        predicted = adapter(prior.unet, repeated, times, prompts, hint).float()
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
        latents = scheduler.step(predicted, time, latents).prev_sample
    return latents


def solver(prior: Prior) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ 2M on the prior's own noise schedule, stepping down from the last timestep.

    The clip of lambda is the authors' advice for cosine schedules, whose signal-to-noise ratio
    reaches zero.
    """
    return DPMSolverMultistepScheduler.from_config(
        prior.scheduler.config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        lambda_min_clipped=-5.1,
    )
