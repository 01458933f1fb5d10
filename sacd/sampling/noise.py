"""Initial noise that belongs to an image, not to a batch."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def noise_seed(seed: int, image_id: str, sample: int) -> int:
    """A 63-bit seed that depends on (seed, image id, sample index) alone."""
    text = f"{seed}\n{image_id}\n{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def initial_noise(seed: int, keys: Sequence[tuple[str, int]], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise (N, *shape) for (image id, sample index) keys.

    Whatever the batch, shard or number of GPUs, a key gets the same noise.
    """
    return torch.stack(
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(noise_seed(seed, *key)))
            for key in keys
        ]
    )
