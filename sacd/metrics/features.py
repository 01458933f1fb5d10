"""Per-image scores in a network's feature space. All take (N, C, h, w) and return (N,)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def location_cosines(ours: Tensor, truth: Tensor) -> Tensor:
    """Cosine similarity of the channel vectors at each location, (N, h*w)."""
    return F.cosine_similarity(ours.float(), truth.float(), dim=1).flatten(1)


def feature_scores(ours: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Agreement of two batches of feature maps.

    `cos_median`, `cos_mean`, `cos_q05`: median, mean and 5 % quantile over locations of the cosine
    at each location; `cos_pooled`: cosine of the spatial averages; `rel_l2`: |ours - truth| /
    |truth| over the whole map.
    """
    cosines = location_cosines(ours, truth)
    quantiles = cosines.quantile(torch.tensor([0.05, 0.5], device=cosines.device), dim=1)
    difference = (ours.float() - truth.float()).flatten(1).norm(dim=1)
    return {
        "cos_median": quantiles[1],
        "cos_mean": cosines.mean(1),
        "cos_q05": quantiles[0],
        "cos_pooled": F.cosine_similarity(
            ours.float().mean((2, 3)), truth.float().mean((2, 3)), dim=1
        ),
        "rel_l2": difference / truth.float().flatten(1).norm(dim=1).clamp(min=1e-12),
    }


def class_scores(ours: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Agreement of logits (N, classes): does our top-1 equal, our top-5 contain, truth's top-1?

    Both are compared as truth was stored, in which classes may tie: each of them counts as first.
    """
    stored = ours.to(truth.dtype)
    said = stored.gather(1, truth.argmax(1, keepdim=True))[:, 0]
    top = stored.topk(min(5, stored.shape[1]), dim=1).values
    return {"top1_match": (said >= top[:, 0]).float(), "top5_match": (said >= top[:, -1]).float()}


def mean_pairwise_distance(maps: Tensor) -> Tensor:
    """Spread of K samples in feature space: maps (N, K, C, h, w) -> (N,).

    One minus the mean cosine at each location, averaged over pairs of different samples.
    """
    count = maps.shape[1]
    units = F.normalize(maps.float(), dim=2)
    # |sum of unit vectors|^2 = their own squares (1, or 0 without activation) + ordered pairs.
    squares = units.sum(1).square().sum(1).mean((1, 2))
    own = units.square().sum((1, 2)).mean((1, 2))
    return 1 - (squares - own) / (count * (count - 1))
