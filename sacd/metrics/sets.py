"""Distances between sets of images in a feature space."""

import numpy as np
import scipy.linalg
from torch import Tensor


def frechet_distance(ours: Tensor, truth: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to vectors (N, D) and (M, D).

    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017 apply
    it to Inception features, which the caller must name if these are others).
    """
    a, b = ours.double().numpy(), truth.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the root by eigenvalues of a symmetric product: real by construction.
    root_a = scipy.linalg.sqrtm(cov_a).real
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
