"""Edits of feature maps: steering along a concept, and the composition of two maps.

All take maps (N, C, h, w) and masks bool (N, h, w), and leave what they are given as it was.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ALMOST_PARALLEL = 1e-4  # radians: below, a great circle is a line for all floats can tell


def steer(features: Tensor, vector: Tensor, amount: float, mask: Tensor | None = None) -> Tensor:
    """`features + amount x vector` (C,), at the mask's locations or everywhere."""
    moved = features.float() + amount * vector.view(-1, 1, 1)
    return moved if mask is None else torch.where(mask[:, None], moved, features.float())


def mix(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """`(1 - weight) first + weight second`."""
    return first.float().lerp(second.float(), weight)


def mix_on_sphere(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """The same at each location by angle and length apart (Shoemake 1985).

    A straight line between two vectors leads through shorter ones, which real features seldom are.
    """
    a, b = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    cosine = (a * b).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    near = angle.sin() < ALMOST_PARALLEL
    sine = torch.where(near, 1.0, angle.sin())
    round_ = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / sine
    direction = F.normalize(torch.where(near, a.lerp(b, weight), round_), dim=1)
    length, other = (features.float().norm(dim=1, keepdim=True) for features in (first, second))
    return length.lerp(other, weight) * direction


def transplant(features: Tensor, donor: Tensor, region: Tensor) -> Tensor:
    """The donor's features in the region, the map's own outside: also a union of two objects."""
    return torch.where(region[:, None], donor.float(), features.float())


def remove(features: Tensor, region: Tensor, background: Tensor) -> Tensor:
    """The region filled by the map's own mean over `background`, another region.

    Raises ValueError where an image has no background.
    """
    if not bool(background.flatten(1).any(1).all()):
        raise ValueError("an image without background has nothing to fill a region with")
    weights = background[:, None].float()
    filling = (features.float() * weights).sum((2, 3)) / weights.sum((2, 3))
    return torch.where(region[:, None], filling[:, :, None, None], features.float())
