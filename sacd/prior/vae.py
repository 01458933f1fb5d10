"""The prior's autoencoder: images to latents of about unit deviation, and back."""

from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import atomic
from sacd.networks import CONFIG, load_diffusers, save_diffusers
from sacd.numerics import conv_format
from sacd.prior.requirements import require_autoencoder

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny

BATCH = 64


def load_autoencoder(folder: Path) -> Autoencoder:
    """A frozen autoencoder in fp32 from a folder in the diffusers layout; raises `SacdError`."""
    if not (folder / CONFIG).exists():
        raise SacdError(f"{folder}: no autoencoder of diffusers here (no {CONFIG}).")
    if require_autoencoder(folder / CONFIG)["_class_name"] != AutoencoderTiny.__name__:
        return load_diffusers(AutoencoderKL, folder)
    vae = load_diffusers(AutoencoderTiny, folder)
    return vae.to(memory_format=vae_format(vae, vae.device))


def blank_autoencoder(folder: Path) -> Autoencoder:
    """One with random weights, as the configuration in a folder describes it."""
    config = require_autoencoder(folder / CONFIG)
    kind = AutoencoderTiny if config["_class_name"] == AutoencoderTiny.__name__ else AutoencoderKL
    return kind.from_config(config)


def vae_format(vae: Autoencoder, device: torch.device) -> torch.memory_format:
    """The faster layout for its weights: for want of norms, an AutoencoderTiny has another one."""
    return torch.channels_last if isinstance(vae, AutoencoderTiny) else conv_format(device)


def save_autoencoder(vae: Autoencoder, folder: Path) -> None:
    """Write an autoencoder with fp16 weights."""
    with atomic(folder) as temporary:
        save_diffusers(vae, temporary)


def vae_scale_factor(vae: Autoencoder) -> int:
    """How many pixels of a side become one of the latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode(vae: Autoencoder, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> scaled latents (N, c, H', W'), the posterior's mean."""
    latents = _raw_latents(vae, images)
    shift, scale = _normalisation(vae, latents)
    return latents * scale if shift is None else (latents - shift) * scale


def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Scaled latents (N, c, H', W') -> images (N, 3, H, W) in [0, 1]."""
    shift, scale = _normalisation(vae, latents)
    unscaled = latents / scale
    images = vae.decode(unscaled if shift is None else unscaled + shift).sample
    return ((images.float() + 1) / 2).clamp(0, 1)


@torch.no_grad()
def standardise(vae: Autoencoder, images: Tensor, device: torch.device) -> None:
    """Give latents zero mean and unit deviation in every channel, over images uint8 (N, 3, H, W).

    What was measured stands in the autoencoder's configuration, in place of the scale and shift
    that it came with. Raises `SacdError` where a channel is the same for all images.
    """

    means, squares = [], []
    for batch in images.split(BATCH):
        latents = _raw_latents(vae, batch.to(device).float() / 255).double().cpu()
        means.append(latents.mean((2, 3)))
        squares.append(latents.square().mean((2, 3)))
    mean, square = (torch.cat(values).mean(0) for values in (means, squares))
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    if bool((deviation < 1e-6).any()):
        raise SacdError("The autoencoder gives latents of which a channel is the same everywhere.")
    vae.register_to_config(
        scaling_factor=1.0,
        shift_factor=0.0,
        latents_mean=[round(value, 6) for value in mean.tolist()],
        latents_std=[round(value, 6) for value in deviation.tolist()],
    )


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8; values outside are clipped, and NaN is a `SacdError`."""
    if bool(images.isnan().any()):
        raise SacdError("what was drawn is not a number: lower the method's rates and strengths.")
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _raw_latents(vae: Autoencoder, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> latents as the network gives them."""
    encoded = vae.encode(2 * images - 1)
    return encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mean


def _normalisation(vae: Autoencoder, like: Tensor) -> tuple[Any, Any]:
    """What is taken from latents (None: nothing), and what they are then multiplied by.

    A mean and a deviation of every channel, as Wan's and Sana's autoencoders have, or one shift, as
    Stable Diffusion 3's.
    """
    config = vae.config
    if config.get("latents_mean") is None:
        return config.shift_factor, config.scaling_factor
    mean, deviation = (
        torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, config.scaling_factor / deviation
