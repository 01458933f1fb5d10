"""Distances between sets of images in a feature space."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
KID_SUBSET = 1000  # images, at most, as is usual


def frechet_distance(ours: Tensor, truth: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to vectors (N, D) and (M, D).

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017 apply
    it to Inception features, which the caller must name if these are others).
    """
    a, b = ours.double().numpy(), truth.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the root by eigenvalues of symmetric matrices: real by construction, and exact
    # where there are fewer vectors than dimensions.
    values, axes = np.linalg.eigh(cov_a)
    root_a = axes * np.sqrt(values.clip(min=0)) @ axes.T
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def inception_available() -> bool:
    """Whether the Inception weights that FID and KID stand on are in torch's hub cache."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION).exists()


def inception_distances(
    ours: Iterable[Tensor], truth: Iterable[Tensor], seed: int, device: torch.device
) -> dict[str, float]:
    """`fid` (Heusel et al. 2017) and `kid` (Binkowski et al. 2018) of two sets of images.

    Batches of uint8 images (n, 3, H, W); by torchmetrics, and nothing without Inception's weights.
    `seed` draws the subsets over which the kernel distance is averaged.
    """
    if not inception_available():
        return {}
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance
    from torchmetrics.wrappers import FeatureShare

    kernel = KernelInceptionDistance()
    metrics = FeatureShare({"fid": FrechetInceptionDistance(), "kid": kernel}).to(device)
    counts = {}
    for real, batches in ((False, ours), (True, truth)):
        counts[real] = 0
        for batch in batches:
            metrics.update(batch.to(device), real=real)
            counts[real] += len(batch)
    kernel.subset_size = min(KID_SUBSET, *counts.values())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = metrics.compute()
    return {"fid": float(found["fid"]), "kid": float(found["kid"][0])}
