"""Cached latents: images through the prior's encoder, in the manifest's order."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sacd.prior.prior import to_uint8

BATCH = 64


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Tensor, device: torch.device) -> Tensor:
    """uint8 (N, 3, H, W) -> fp16 scaled latents (N, c, H', W'): the posterior's mean."""
    scale = vae.config.scaling_factor
    return torch.cat(
        [
            (vae.encode(batch.to(device).float() / 127.5 - 1).latent_dist.mean * scale).half().cpu()
            for batch in images.split(BATCH)
        ]
    )


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor, device: torch.device) -> Tensor:
    """Scaled latents (N, c, H', W') -> uint8 images (N, 3, H, W)."""
    scale = vae.config.scaling_factor
    return torch.cat(
        [
            to_uint8((vae.decode(batch.to(device).float() / scale).sample + 1) / 2).cpu()
            for batch in latents.split(BATCH)
        ]
    )
