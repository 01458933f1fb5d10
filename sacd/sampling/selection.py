"""Keeping the best of several samples by the distance of their features."""

from torch import Tensor


def best_of(distances: Tensor, count: int) -> Tensor:
    """Which samples of an image to keep: distances (N, M * count) -> indices (N, count).

    Sample k is the best of the k-th M, so that the kept ones are independent of one another, as
    samples are.
    """
    grouped = distances.unflatten(1, (count, -1))
    offsets = grouped.shape[2] * distances.new_tensor(range(count)).long()
    return grouped.argmin(2) + offsets
