"""The one distance of feature maps that is minimised, by whatever minimises one."""

from torch import Tensor


def relative_distance(ours: Tensor, truth: Tensor) -> Tensor:
    """Squared distance over the truth's squared length: (N, C, h, w) each -> (N,).

    The loss of Mahendran & Vedaldi (2015, equation 2). As `rel_l2` of the scores, but squared.
    """
    difference = (ours.float() - truth.float()).flatten(1).square().sum(1)
    return difference / truth.float().flatten(1).square().sum(1).clamp(min=1e-12)
