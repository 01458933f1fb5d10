"""Common corruptions of images (after Hendrycks & Dietterich 2019), by torchvision and Pillow."""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

# (uint8 images (N, 3, H, W), strength, standard normal noise of that shape) -> uint8 images.
Corruption = Callable[[Tensor, float, Tensor], Tensor]


def add_noise(images: Tensor, deviation: float, noise: Tensor) -> Tensor:
    """Gaussian noise; `deviation` as a share of the brightest value."""
    return (images + 255 * deviation * noise).round().clamp(0, 255).to(images.dtype)


def blur(images: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """Gaussian blur of `sigma` pixels."""
    # Images are continued by their reflection, which is as wide as they are.
    reach = min(max(1, round(3 * sigma)), min(images.shape[-2:]) - 1)
    return transforms.gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def compress(images: Tensor, quality: float, noise: Tensor) -> Tensor:
    """JPEG of a `quality` from 100 down to 1."""
    return torch.stack([_through_jpeg(image, round(quality)) for image in images])


def fade(images: Tensor, factor: float, noise: Tensor) -> Tensor:
    """Contrast times `factor`."""
    return transforms.adjust_contrast(images, factor)


def darken(images: Tensor, factor: float, noise: Tensor) -> Tensor:
    """Brightness times `factor`."""
    return transforms.adjust_brightness(images, factor)


def pixelate(images: Tensor, side: float, noise: Tensor) -> Tensor:
    """Blocks of `side` pixels in one colour, their mean."""
    means = F.avg_pool2d(images.float(), round(side), ceil_mode=True, count_include_pad=False)
    blocks = means.repeat_interleave(round(side), 2).repeat_interleave(round(side), 3)
    return blocks[..., : images.shape[2], : images.shape[3]].round().to(images.dtype)


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": add_noise,
    "blur": blur,
    "jpeg": compress,
    "contrast": fade,
    "brightness": darken,
    "pixelate": pixelate,
}
