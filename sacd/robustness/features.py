"""Disturbances of feature maps, channel by channel."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelRange:
    """How far each channel (C,) goes in ordinary images: its deviation, least and largest value."""

    deviation: Tensor
    least: Tensor
    largest: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "ChannelRange":
        """Measured on features (N, C, h, w)."""
        values = features.float().transpose(0, 1).flatten(1)
        return cls(values.std(1), values.amin(1), values.amax(1))


def add_feature_noise(
    features: Tensor, strength: float, noise: Tensor, usual: ChannelRange
) -> Tensor:
    """Gaussian noise of `strength` deviations of a channel; `noise` (N, C, h, w) is normal."""
    return features.float() + strength * usual.deviation.view(-1, 1, 1) * noise


def drop_channels(features: Tensor, share: float, noise: Tensor) -> Tensor:
    """A `share` of each image's channels set to zero: those where `noise` (N, C, h, w) is least."""
    order = noise[:, :, 0, 0].argsort(1)
    dropped = order[:, : round(share * features.shape[1])]
    kept = torch.ones(features.shape[:2]).scatter(1, dropped, 0.0)
    return features.float() * kept[:, :, None, None]


def quantise(features: Tensor, bits: int, usual: ChannelRange) -> Tensor:
    """Values rounded to 2^`bits` levels, evenly spaced over a channel's usual range."""
    least = usual.least.view(-1, 1, 1)
    step = (usual.largest.view(-1, 1, 1) - least).clamp(min=1e-8) / (2**bits - 1)
    levels = ((features.float() - least) / step).round().clamp(0, 2**bits - 1)
    return least + step * levels
