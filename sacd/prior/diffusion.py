"""The denoising objective, and the training of the prior's U-Net with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from torch import Tensor

from sacd import parallel
from sacd.networks import create_diffusers
from sacd.numerics import conv_format
from sacd.optimization import Progress, Recipe, Step, Trained, train
from sacd.prior.process import TIMESTEPS, process_of

PROMPT_TOKENS, PROMPT_WIDTH = 1, 32


def create_scheduler(shift: float) -> DDPMScheduler:
    """The schedule of our own diffusions: shifted cosine, v-prediction (Salimans & Ho 2022).

    The signal-to-noise ratio of the cosine schedule is divided by `shift` squared (Hoogeboom et al.
    2023, simple diffusion): latents of many channels repeat the layout of a scene so often that at
    the cosine's noise levels it is hardly ever in doubt, and so hardly ever learnt.
    """
    angle = np.linspace(0, np.pi / 2, TIMESTEPS + 1)
    signal = 1 / (1 + (shift * np.tan(angle[:-1])) ** 2)
    betas = 1 - np.append(signal[1:], 0.0) / signal
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS,
        trained_betas=betas.clip(1e-6, 0.999).tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


def create_unet(options: dict[str, Any], latent_shape: tuple[int, ...]) -> UNet2DConditionModel:
    """A diffusers UNet2DConditionModel for latents (c, H, W); `options` are its constructor's."""
    return create_diffusers(
        UNet2DConditionModel,
        options,
        sample_size=latent_shape[-1],
        in_channels=latent_shape[0],
        out_channels=latent_shape[0],
        cross_attention_dim=PROMPT_WIDTH,
    )


def create_null_prompt() -> Tensor:
    """(1, tokens, width): a constant random vector, drawn from torch's global generator.

    Our own priors have one prompt, as a text-to-image prior has its empty one.
    """
    return torch.randn(1, PROMPT_TOKENS, PROMPT_WIDTH)


def noised(
    scheduler: SchedulerMixin,
    latents: Tensor,
    generator: torch.Generator,
    exponent: float = 1.0,
    shared: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw timesteps and noise: (noised latents, timesteps, the network's target).

    If `shared`, latents are this process's share of a batch, and so is what it is given.

    Timesteps are those at the quantiles u^exponent of the process's own distribution: below 1, high
    noise comes more often. The u of a batch are spread evenly over [0, 1), which takes noise from
    the loss (Kingma et al. 2021, Variational Diffusion Models, appendix I.1).
    """
    process, count = process_of(scheduler), len(latents)
    if shared:
        count *= parallel.count()
    shares = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    times = process.times((shares / count) ** exponent)
    noise = torch.randn((count, *latents.shape[1:]), generator=generator)
    if shared:
        times, noise = parallel.share(times), parallel.share(noise)
    times, noise = times.to(latents.device), noise.to(latents.device)
    return process.noisy(latents, noise, times), times, process.target(latents, noise, times)


def train_unet(
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    prompt: Tensor,
    latents: Tensor,
    recipe: Recipe,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Train a prior's U-Net, from the weights it has, on scaled latents (N, c, H, W).

    `prompt` is the null prompt (1, tokens, width). `unet` ends with averaged weights. Returns the
    record of the run.
    """
    unet.to(device, memory_format=conv_format(device)).requires_grad_(True).train()
    prompt = prompt.to(device)

    def read(generator: torch.Generator) -> tuple[Tensor]:
        rows = torch.randint(len(latents), (recipe.batch,), generator=generator)
        return (latents[parallel.share(rows)],)

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        (clean,) = step.batch
        clean = clean.float().contiguous(memory_format=conv_format(device))
        noisy, times, target = noised(scheduler, clean, step.generator, shared=True)
        predicted = unet(noisy, times, prompt.expand(len(clean), -1, -1)).sample
        return F.mse_loss(predicted.float(), target), {}

    trained = train(dict(unet.named_parameters()), read, loss, recipe, work, progress)
    unet.load_state_dict(trained.weights)
    unet.eval().requires_grad_(False)
    return trained
