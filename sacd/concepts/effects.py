"""What an edit of features did, seen in the features of the images drawn from them."""

import torch
from torch import Tensor


def efficacy(before: Tensor, after: Tensor, asked: Tensor, region: Tensor) -> Tensor:
    """How much of what was asked came about, (N,): 1 all of it, 0 nothing, below 0 the reverse.

    before, after: (N, C, h, w), re-encoded from images drawn from features as they were and as they
    were edited; asked: (N, C, h, w), the edit; region: bool (N, h, w), where it was made. The
    change's component along the edit, over the edit; NaN where nothing was asked.
    """
    inside = region[:, None].float()
    change = (after.float() - before.float()) * inside
    wanted = asked.float() * inside
    return (change * wanted).sum((1, 2, 3)) / wanted.square().sum((1, 2, 3))


def off_target(before: Tensor, after: Tensor, asked: Tensor, region: Tensor) -> dict[str, Tensor]:
    """What else changed, in lengths of the edit, (N,) each: as for `efficacy`.

    `off_axis`: inside the region, at right angles to the edit at each location; `off_region`:
    outside of it. NaN where nothing was asked, as for `efficacy`.
    """
    inside = region[:, None].float()
    change, wanted = after.float() - before.float(), asked.float() * inside
    squares = wanted.square().sum(1, keepdim=True).clamp(min=1e-12)
    along = (change * wanted).sum(1, keepdim=True) / squares * wanted
    length = wanted.flatten(1).norm(dim=1)
    length = length.where(length > 0, torch.nan)
    return {
        "off_axis": ((change - along) * inside).flatten(1).norm(dim=1) / length,
        "off_region": (change * (1 - inside)).flatten(1).norm(dim=1) / length,
    }


def response(before: Tensor, after: Tensor, full: Tensor) -> Tensor:
    """How far an edit went on the way to its full extent, (N,): 0 at `before`, 1 at `full`.

    All (N, C, h, w), re-encoded. For mixtures by a weight t, a linear response is t itself.
    """
    whole = full.float() - before.float()
    part = after.float() - before.float()
    return (part * whole).sum((1, 2, 3)) / whole.square().sum((1, 2, 3)).clamp(min=1e-12)


class Manifold:
    """Real features, by which an edited one is plausible or not.

    values: (M, C), channel vectors of real images.
    """

    def __init__(self, values: Tensor):
        self.values = values.float()
        among = torch.cdist(self.values, self.values)
        among.fill_diagonal_(float("inf"))
        self.usual = among.amin(1).sort().values  # distances of real ones to their nearest

    def percentile(self, features: Tensor, region: Tensor) -> Tensor:
        """How far features (N, C, h, w) lie off, (N,): the mean over the region's locations.

        At each, the share in percent of real vectors that are nearer to their nearest neighbour
        than this one is to its own. Real features come to 50 on average; 100 is off the manifold.
        """
        vectors = features.float().movedim(1, -1).flatten(0, 2)
        distances = torch.cdist(vectors, self.values).amin(1)
        ranks = torch.searchsorted(self.usual, distances) * (100 / len(self.usual))
        weights = region.float().flatten(1)
        return (ranks.view_as(weights) * weights).sum(1) / weights.sum(1)
