"""Retrieval: the training images whose features are nearest to the given ones."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest_rows(features: Tensor, batches: Iterable[Tensor], count: int) -> Tensor:
    """Rows (N, count) of the most similar maps for features (N, C, h, w), best first.

    batches: maps (M, C, h, w), together those of the training set in order. Similar by the mean
    over locations of the cosine at each: what the scores measure, so retrieval is at its best.
    """
    ours = _unit_vectors(features)
    similarities = torch.cat([ours @ _unit_vectors(batch).T for batch in batches], dim=1)
    return similarities.topk(count, dim=1).indices


def _unit_vectors(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C*h*w), such that products are sums of the locations' cosines."""
    return F.normalize(features.float(), dim=1).flatten(1)
