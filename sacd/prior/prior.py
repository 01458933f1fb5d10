"""The frozen prior: a latent diffusion model in the diffusers folder layout."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import atomic, read_json
from sacd.networks import UNMADE, brief, load_diffusers, read_weights, save_diffusers
from sacd.numerics import conv_format
from sacd.prior.process import Diffusion, Process, process_of, scheduler_of
from sacd.prior.requirements import SCHEDULER, require_supported
from sacd.prior.source import NULL_PROMPT, TEXT_ENCODER
from sacd.prior.stable_diffusion import embed_nothing
from sacd.prior.vae import (
    Autoencoder,
    decode,
    encode,
    load_autoencoder,
    save_autoencoder,
    vae_format,
    vae_scale_factor,
)


@dataclass
class Prior:
    """A latent diffusion prior and its one prompt.

    Attributes:
        unet: predicts noise, v or velocity from (latents, timestep, prompt), see `process`.
        vae: maps images in [-1, 1] to latents and back.
        scheduler: diffusers' description of the process it was trained on.
        null_prompt: (1, tokens, width), the embedding of the empty prompt.
    """

    unet: UNet2DConditionModel
    vae: Autoencoder
    scheduler: SchedulerMixin
    null_prompt: Tensor

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Prior":
        """Load `unet/`, `vae/`, `scheduler/` and the null prompt; raises `SacdError`.

        In a folder of Stable Diffusion the text encoder makes the null prompt.
        """
        require_supported(folder, _prompt_width(folder / NULL_PROMPT))
        unet = load_diffusers(UNet2DConditionModel, folder / "unet")
        vae = load_autoencoder(folder / "vae")
        scheduler = _load_scheduler(folder)
        if (folder / NULL_PROMPT).exists():
            null_prompt = read_weights(folder / NULL_PROMPT)["embedding"].float()
        elif (folder / TEXT_ENCODER).exists():
            null_prompt = embed_nothing(folder)
        else:
            raise SacdError(
                f"{folder}: not a prior in the diffusers layout: neither {NULL_PROMPT} nor "
                f"{TEXT_ENCODER}/."
            )
        prior = cls(unet, vae, scheduler, null_prompt)
        _require_working(prior, folder)
        return prior

    def save(self, folder: Path) -> None:
        """Write the folder that `from_pretrained` reads, weights in fp16, which must hold them."""
        with atomic(folder) as temporary:
            save_diffusers(self.unet, temporary / "unet")
            save_autoencoder(self.vae, temporary / "vae")
            self.scheduler.save_pretrained(temporary / "scheduler")
            save_file({"embedding": self.null_prompt.half()}, temporary / NULL_PROMPT)

    def to(self, device: torch.device) -> "Prior":
        """Move every part, weights in the layout that is faster there."""
        self.unet.to(device, memory_format=conv_format(device))
        self.vae.to(device, memory_format=vae_format(self.vae, device))
        self.null_prompt = self.null_prompt.to(device)
        return self

    @property
    def process(self) -> Process:
        """How noise and latents belong together."""
        return process_of(self.scheduler)

    def prompts(self, count: int) -> Tensor:
        """The null prompt, repeated: (count, tokens, width)."""
        return self.null_prompt.expand(count, -1, -1)


def _load_scheduler(folder: Path) -> SchedulerMixin:
    """What describes the process of a prior; raises `SacdError` for a schedule that is none."""
    path = folder / SCHEDULER
    try:
        scheduler = scheduler_of(read_json(path))
    except UNMADE as error:
        raise SacdError(f"{path}: no noise schedule ({brief(error)}).") from error
    if isinstance(process_of(scheduler), Diffusion):
        _require_falling(scheduler, path)
    return scheduler


def _require_falling(scheduler: SchedulerMixin, path: Path) -> None:
    signal = scheduler.alphas_cumprod.reshape(-1)
    falls = (signal >= 0).all() and (signal.diff() <= 0).all() and signal[:1] < 1
    if len(signal) != scheduler.config.num_train_timesteps or not bool(falls):
        raise SacdError(
            f"{path}: no noise schedule: the signal must fall from 1 towards 0, at every one of "
            f"num_train_timesteps."
        )


@torch.no_grad()
def _require_working(prior: "Prior", folder: Path) -> None:
    """One pass through every part: what it is made of fits, whatever its configurations say."""
    side = 2 ** len(prior.unet.config.block_out_channels)
    size = side * vae_scale_factor(prior.vae)
    images = torch.full((1, 3, size, size), 0.5)
    try:
        latents = encode(prior.vae, images)
        predicted = prior.unet(latents, torch.ones(1), prior.prompts(1)).sample
        drawn = decode(prior.vae, latents)
    except UNMADE as error:
        raise SacdError(f"{folder}: its parts don't work together ({brief(error)}).") from error
    shapes = {
        "vae/ encodes": (latents, (1, prior.vae.config.latent_channels, side, side)),
        "unet/ predicts": (predicted, tuple(latents.shape)),
        "vae/ decodes": (drawn, tuple(images.shape)),
    }
    for does, (found, expected) in shapes.items():
        if tuple(found.shape) != expected:
            raise SacdError(
                f"{folder}: {does} a shape of {tuple(found.shape)} where {expected} is needed."
            )
        if not bool(found.isfinite().all()):
            raise SacdError(f"{folder}: {does} what are no finite numbers.")


def _prompt_width(path: Path) -> int | None:
    """The width of the null prompt in a file (1, tokens, width), or None without a file."""
    if not path.exists():
        return None
    found = read_weights(path).get("embedding")
    if found is None or found.ndim != 3 or len(found) != 1 or found.numel() == 0:
        raise SacdError(f"{path}: holds no embedding (1, tokens, width) of the empty prompt.")
    return found.shape[-1]


def latent_shape(prior: Prior, image_size: int) -> tuple[int, int, int]:
    """(c, H, W) of the latents of images of `image_size` pixels.

    Not the U-Net's or the autoencoder's sample_size, which may be that of other images.
    """
    side = image_size // vae_scale_factor(prior.vae)
    return prior.vae.config.latent_channels, side, side
