"""The frozen prior: a latent diffusion model in the diffusers folder layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    ModelMixin,
    SchedulerMixin,
    UNet2DConditionModel,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import atomic
from sacd.networks import load_diffusers, read_weights
from sacd.numerics import conv_format
from sacd.prior.requirements import require_supported
from sacd.prior.stable_diffusion import TEXT_ENCODER, embed_nothing
from sacd.tensors import halved

NULL_PROMPT = "null_prompt.safetensors"


@dataclass
class Prior:
    """A latent diffusion prior and its one prompt.

    Attributes:
        unet: predicts noise or v from (latents, timestep, prompt), as `scheduler` says.
        vae: maps images in [-1, 1] to latents and back.
        scheduler: the noise schedule it was trained with.
        null_prompt: (1, tokens, width), the embedding of the empty prompt.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: SchedulerMixin
    null_prompt: Tensor

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Prior":
        """Load `unet/`, `vae/`, `scheduler/` and the null prompt; raises `SacdError`.

        In a folder of Stable Diffusion the text encoder makes the null prompt.
        """
        require_supported(folder, _prompt_width(folder / NULL_PROMPT))
        try:
            unet = load_diffusers(UNet2DConditionModel, folder / "unet")
            vae = load_diffusers(AutoencoderKL, folder / "vae")
            scheduler = DDPMScheduler.from_pretrained(
                folder, subfolder="scheduler", local_files_only=True
            )
            if (folder / NULL_PROMPT).exists() or not (folder / TEXT_ENCODER).exists():
                null_prompt = load_file(folder / NULL_PROMPT)["embedding"].float()
            else:
                null_prompt = embed_nothing(folder)
            return cls(unet, vae, scheduler, null_prompt)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SacdError(
                f"{folder}: not a prior in the diffusers layout (unet/, vae/, scheduler/, "
                f"{NULL_PROMPT}): {error}"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the folder that `from_pretrained` reads, weights in fp16, which must hold them."""
        with atomic(folder) as temporary:
            _save_halved(self.unet, temporary / "unet")
            save_autoencoder(self.vae, temporary / "vae")
            self.scheduler.save_pretrained(temporary / "scheduler")
            save_file({"embedding": self.null_prompt.half()}, temporary / NULL_PROMPT)

    def to(self, device: torch.device) -> "Prior":
        """Move every part, weights in the layout that is faster there."""
        for part in (self.unet, self.vae):
            part.to(device, memory_format=conv_format(device))
        self.null_prompt = self.null_prompt.to(device)
        return self

    def prompts(self, count: int) -> Tensor:
        """The null prompt, repeated: (count, tokens, width)."""
        return self.null_prompt.expand(count, -1, -1)


def _prompt_width(path: Path) -> int | None:
    """The width of the null prompt in a file (1, tokens, width), or None without a file."""
    if not path.exists():
        return None
    found = read_weights(path).get("embedding")
    if found is None or found.ndim != 3 or len(found) != 1:
        raise SacdError(f"{path}: holds no embedding (1, tokens, width) of the empty prompt.")
    return found.shape[-1]


def save_autoencoder(vae: AutoencoderKL, folder: Path) -> None:
    """Write an autoencoder with fp16 weights."""
    with atomic(folder) as temporary:
        _save_halved(vae, temporary)


def _save_halved(network: ModelMixin, folder: Path) -> None:
    halved(network.state_dict(), folder)  # raises where fp16 cannot hold a weight
    network.half().save_pretrained(folder)
    network.float()


def latent_shape(prior: Prior, image_size: int) -> tuple[int, int, int]:
    """(c, H, W) of the latents of images of `image_size` pixels.

    Not the U-Net's or the autoencoder's sample_size, which may be that of other images.
    """
    side = image_size // vae_scale_factor(prior.vae)
    return prior.vae.config.latent_channels, side, side


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """How many pixels of a side become one of the latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> scaled latents (N, c, H', W'), the posterior's mean."""
    latents = vae.encode(2 * images - 1).latent_dist.mean
    shift, scale = _normalisation(vae, latents)
    return latents * scale if shift is None else (latents - shift) * scale


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents (N, c, H', W') -> images (N, 3, H, W) in [0, 1]."""
    shift, scale = _normalisation(vae, latents)
    unscaled = latents / scale
    images = vae.decode(unscaled if shift is None else unscaled + shift).sample
    return ((images.float() + 1) / 2).clamp(0, 1)


def _normalisation(vae: AutoencoderKL, like: Tensor) -> tuple[Any, Any]:
    """What is taken from latents (None: nothing), and what they are then multiplied by.

    A mean and a deviation of every channel, as Wan's and Sana's autoencoders have, or one shift, as
    Stable Diffusion 3's.
    """
    config = vae.config
    if config.latents_mean is None:
        return config.shift_factor, config.scaling_factor
    mean, deviation = (
        torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, config.scaling_factor / deviation


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8; values outside are clipped, and NaN is a `SacdError`."""
    if bool(images.isnan().any()):
        raise SacdError("what was drawn is not a number: lower the method's rates and strengths.")
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
