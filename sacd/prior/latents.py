"""Cached latents: images through the prior's autoencoder, batch by batch."""

import torch
from torch import Tensor

from sacd.prior.vae import BATCH, Autoencoder, decode, encode, to_uint8


@torch.no_grad()
def encode_images(vae: Autoencoder, images: Tensor, device: torch.device) -> Tensor:
    """uint8 (N, 3, H, W) -> fp16 scaled latents (N, c, H', W'): the posterior's mean."""
    batches = images.split(BATCH)
    return torch.cat([encode(vae, b.to(device).float() / 255).half().cpu() for b in batches])


@torch.no_grad()
def decode_latents(vae: Autoencoder, latents: Tensor, device: torch.device) -> Tensor:
    """Scaled latents (N, c, H', W') -> uint8 images (N, 3, H, W)."""
    batches = latents.split(BATCH)
    return torch.cat([to_uint8(decode(vae, b.to(device).float())).cpu() for b in batches])


def round_trip(vae: Autoencoder, images: Tensor, device: torch.device) -> Tensor:
    """uint8 images (N, 3, H, W), encoded and decoded again: what the autoencoder keeps of them."""
    return decode_latents(vae, encode_images(vae, images, device), device)
