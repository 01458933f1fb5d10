"""Where in a feature map an edit is made: masks bool (N, h, w)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sacd.concepts.directions import Directions

ACTIVE_ABOVE = 1.0


def object_region(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Locations that objects, bool (N, H, W), cover by half or more; else the one covered most."""
    covered = F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]
    most = covered.flatten(1).amax(1)[:, None, None]
    return (covered >= 0.5) | ((covered == most) & (most > 0))


def active_region(features: Tensor, found: Directions, row: int) -> Tensor:
    """Where a concept, a row of `found`, is active in features (N, C, h, w).

    That is where they lie further along it than the mean of real ones and `ACTIVE_ABOVE` scales;
    where an image has no such location, the one furthest along.
    """
    along = torch.einsum("c,nchw->nhw", found.vectors[row], features.float())
    threshold = found.means[row] + ACTIVE_ABOVE * found.scales[row]
    return (along > threshold) | (along == along.flatten(1).amax(1)[:, None, None])


def right_half(count: int, grid: tuple[int, int]) -> Tensor:
    """The right half of each of `count` maps."""
    region = torch.zeros(count, *grid, dtype=torch.bool)
    region[..., grid[1] // 2 :] = True
    return region


def centre(count: int, grid: tuple[int, int]) -> Tensor:
    """The middle of each of `count` maps, half as wide and as high (rounded down, but not to 0)."""
    region = torch.zeros(count, *grid, dtype=torch.bool)
    height, width = (max(1, side // 2) for side in grid)
    top, left = (grid[0] - height) // 2, (grid[1] - width) // 2
    region[:, top : top + height, left : left + width] = True
    return region
