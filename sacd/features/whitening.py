"""Whitening of features: how adapters are given a backbone's map."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Share of the largest variance that is added to every direction's. More for spatial averages, whose
# small directions are chance for the most part.
RIDGE, POOLED_RIDGE = 0.003, 0.1
LEAST_VARIANCE = 1e-8  # of features that hardly vary at all


@dataclass(frozen=True)
class Whitening:
    """The affine map c -> matrix (c - mean) to features of mean 0 and covariance near 1.

    `mean` is (C,), `matrix` (C, C), both float32.
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def blank(cls, channels: int) -> "Whitening":
        """Zeros, to be overwritten by stored weights."""
        return cls(torch.zeros(channels), torch.zeros(channels, channels))


def whiten(features: Tensor, mean: Tensor, matrix: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (N, C, h, w), whitened and resized bilinearly to `grid` (H, W): (N, C, H, W)."""
    with torch.autocast(features.device.type, enabled=False):  # small directions need all digits
        # Not by a convolution, for which a GPU's default is TF32.
        values = torch.einsum("oc,nchw->nohw", matrix, features.float() - mean.view(-1, 1, 1))
    return F.interpolate(values, grid, mode="bilinear", align_corners=False)


def measure_whitening(batches: Iterable[Tensor], pooled: bool) -> Whitening:
    """Measure it on batches of features (N, C, h, w); with `pooled`, on their spatial averages.

    The matrix is the symmetric one, (S + r I)^(-1/2) with the covariance S (ZCA, Bell & Sejnowski
    1997), so that whitened channels still resemble the ones they come from. A classifier's last map
    varies mostly along a direction a class; place, colour and light lie in the small rest, which
    stays small if channels are standardised one by one, and which an adapter then learns last. The
    ridge r keeps directions without content from being blown up.
    """
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for features in batches:
        values = features.double()
        values = values.mean((2, 3)) if pooled else values.transpose(0, 1).flatten(1).T
        count += len(values)
        total = total + values.sum(0)
        products = products + values.T @ values
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    variances = variances.clamp(min=0)
    share = POOLED_RIDGE if pooled else RIDGE
    ridge = max(share * float(variances.max()), LEAST_VARIANCE)
    matrix = directions * (variances + ridge).rsqrt() @ directions.T
    return Whitening(mean.float(), matrix.float())
