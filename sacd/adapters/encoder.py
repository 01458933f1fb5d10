"""The feature encoder: a backbone's map, whitened and brought to the latent grid."""

import math

import torch
from torch import Tensor, nn

from sacd.features.whitening import Whitening, whiten

NORM_GROUPS = 8  # at most


class FeatureEncoder(nn.Module):
    """Feature map (N, C, h, w) -> hint (N, width, H, W) on the latent grid.

    Features are whitened, resized bilinearly and passed through 3x3 convolutions. With `pooled`,
    the spatial average stands at every location instead of the map (what RCDM, Bordes et al. 2022,
    conditions on). The null feature is a learned vector.

    The convolutions are normalised and none starts at zero: the adapter's zero convolutions already
    leave an untrained prior as it is. Behind two zeros in a row, or without norms, a weak condition
    such as the pooled one is lost: its first gradients are noise, and they silence the activations.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(
        self, whitening: Whitening, pooled: bool, grid: tuple[int, int], hidden: int, width: int
    ):
        super().__init__()
        self.pooled = pooled
        self._grid = grid
        self.register_buffer("mean", whitening.mean)
        self.register_buffer("matrix", whitening.matrix)
        channels, groups = len(whitening.mean), math.gcd(NORM_GROUPS, hidden)
        self.null = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.GroupNorm(groups, hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.GroupNorm(groups, hidden),
            nn.SiLU(),
            nn.Conv2d(hidden, width, 3, padding=1),
        )

    def forward(self, features: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Features (N, C, h, w), and which rows (N,) to replace by the null feature."""
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"features have {features.shape[1]} channels, adapter wants {len(self.mean)}"
            )
        values = features.float()
        if self.pooled:
            values = values.mean((2, 3), keepdim=True)
        values = whiten(values, self.mean, self.matrix, self._grid)
        if dropped is not None:
            values = torch.where(dropped[:, None, None, None], self.null, values)
        return self.layers(values)

    def null_hint(self, count: int) -> Tensor:
        """The hint of the null feature, (count, width, H, W)."""
        return self.layers(self.null.expand(count, -1, *self._grid))
