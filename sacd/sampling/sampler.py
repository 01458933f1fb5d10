"""The sampling loop: from noise to latents, guided by features and by smoothed attention."""

from collections.abc import Callable, Sequence

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from sacd.adapters.adapter import Adapter, conditioned_prediction
from sacd.prior.attention import smoothed_attention
from sacd.prior.prior import Prior

Interval = Sequence[float]  # its two ends


@torch.no_grad()
def sample_latents(
    prior: Prior,
    adapter: Adapter,
    features: Tensor | None,
    noise: Tensor,
    steps: int,
    guidance: float,
    guidance_interval: Interval = (0.0, 1.0),
    energy_guidance: float = 0.0,
) -> Tensor:
    """Draw latents (N, c, H, W), one for each row of `noise`.

    features: (N, C, h, w), or None for the null feature, which is not guided. The prediction is

        e_null + guidance (e_feature - e_null) + energy_guidance (e_feature - e_smooth)

    The first contrast is that of features against the null feature (Ho & Salimans 2022), in one
    pass of twice the batch, which a guidance of 1 spares. The second is smoothed energy guidance
    (Hong 2024): what the features ask for, against the same under `smoothed_attention`, in a pass
    of its own with the adapter's residuals as they were; it straightens outlines, and 0 spares it.
    Both act where the timestep is within `guidance_interval`, shares of all timesteps (Kynkäänniemi
    et al. 2024): at high noise the first pulls whatever the features leave open to one mean (every
    object of an unknown colour became blue).
    """
    count = len(noise)
    hint = adapter.null_hint(count) if features is None else adapter.hint(features)
    contrasted = features is not None and guidance != 1
    both = hint
    if contrasted:
        pairs = zip(adapter.null_hint(count), hint, strict=True)
        both = tuple(torch.cat(pair) for pair in pairs)
    guided = contrasted or (features is not None and energy_guidance != 0)
    low, high = (end * prior.process.timesteps for end in guidance_interval)

    def given(latents: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = len(latents)
        return latents, time.expand(rows), prior.prompts(rows)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        single = given(latents, time)
        if not (guided and low <= time < high):
            return conditioned_prediction(
                prior.unet, *single, adapter.residuals(*single, hint)
            ).float()
        passed = given(torch.cat([latents, latents]), time) if contrasted else single
        added = adapter.residuals(*passed, both)
        predictions = conditioned_prediction(prior.unet, *passed, added).float()
        null, conditional = predictions[:count], predictions[-count:]
        predicted = null + guidance * (conditional - null)
        if energy_guidance != 0:
            with smoothed_attention(prior.unet) as smoothed:
                kept = tuple(part[-count:] for part in added)
                smooth = conditioned_prediction(smoothed, *single, kept).float()
            predicted = predicted + energy_guidance * (conditional - smooth)
        return predicted

    return integrate(prior, predict, noise, steps)


def integrate(
    prior: Prior,
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int,
    added: Sequence[Tensor] | None = None,
) -> Tensor:
    """Follow `predict(latents, timestep)` from noise to latents by DPM-Solver++ 2M.

    The solver (Lu et al. 2022) adds no noise on its way: the noise at the start decides all.
    With noise for each step, `added`, it is the stochastic form, SDE-DPM-Solver++ 2M.
    """
    scheduler = solver(prior, "dpmsolver++" if added is None else "sde-dpmsolver++")
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    told = prior.process.told(scheduler)
    for number, (step, time) in enumerate(zip(scheduler.timesteps, told, strict=True)):
        scaled = scheduler.scale_model_input(latents, step)
        predicted = predict(scaled, time)
        fresh = None if added is None else added[number]
        latents = scheduler.step(predicted, step, latents, variance_noise=fresh).prev_sample
    return latents


def solver(prior: Prior, algorithm: str = "dpmsolver++") -> DPMSolverMultistepScheduler:
    """DPM-Solver++ 2M on the prior's own process, stepping down from its last timestep.

    The clip of lambda is the authors' advice for cosine schedules, whose signal-to-noise ratio
    reaches zero.
    """
    return DPMSolverMultistepScheduler.from_config(
        prior.process.solver_config(),
        algorithm_type=algorithm,
        solver_order=2,
        timestep_spacing="trailing",
        lambda_min_clipped=-5.1,
    )
