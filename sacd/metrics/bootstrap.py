"""Bootstrap intervals over images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

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


def summarise(scores: pd.DataFrame, metrics: Sequence[str], seed: int) -> dict[str, float | None]:
    """Mean over images and 95 % bootstrap interval of each metric; None where it was not scored.

    Images without a score of a metric are left out of it.
    """
    row: dict[str, float | None] = {}
    for metric in metrics:
        mean = low = high = None
        if metric in scores:
            values = scores.groupby("image_id", sort=False)[metric].mean().dropna()
            if len(values):
                mean, low, high = mean_interval(values.to_numpy(dtype=float), seed)
        row |= {metric: mean, f"{metric}_low": low, f"{metric}_high": high}
    return row
