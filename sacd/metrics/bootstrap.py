"""Bootstrap intervals over images."""

import numpy as np

RESAMPLES = 1000


def mean_interval(values: np.ndarray, seed: int, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of one value an image, with its percentile bootstrap interval (Efron 1979).

    Returns (mean, low, high); 1,000 resamples, seeded. Samples of one image are averaged before,
    because images, not samples, are drawn at random.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(values), size=(RESAMPLES, len(values)))
    means = values[rows].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
