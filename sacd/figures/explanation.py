"""One image explained: what its features fix, and what the prior fills in."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sacd.figures.style import SPREAD_LIMIT


@dataclass(frozen=True)
class Seen:
    """A picture (H, W, 3) and, (h, w), the cosine of its features to the original's."""

    title: str
    pixels: np.ndarray
    cosines: np.ndarray
    note: str


def plot_explanation(original: np.ndarray, spread: np.ndarray, seen: list[Seen]) -> Figure:
    """The original (H, W, 3) over its samples' spread (H, W), then each picture over its cosines.

    Where the spread is dark and cosines are bright, the features fix the image; where the spread is
    bright, the prior filled it in.
    """
    columns = 1 + len(seen)
    figure, axes = plt.subplots(2, columns, figsize=(1.5 * columns + 1.6, 4.0), squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0][0].imshow(original)
    axes[0][0].set_title("original", fontsize=9)
    deviation = axes[1][0].imshow(spread, cmap="magma", vmin=0, vmax=SPREAD_LIMIT)
    axes[1][0].set_xlabel("spread of samples", fontsize=8)
    for picture, (top, bottom) in zip(seen, axes[:, 1:].T, strict=True):
        top.imshow(picture.pixels)
        top.set_title(picture.title, fontsize=9)
        top.set_xlabel(picture.note, fontsize=8)
        agreement = bottom.imshow(picture.cosines, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(deviation, ax=axes[:, 0], location="left", shrink=0.6, aspect=30).set_label(
        "deviation (0: all alike)", fontsize=8
    )
    figure.colorbar(agreement, ax=axes[:, -1], shrink=0.6, aspect=30).set_label(
        "cosine of features, by location", fontsize=8
    )
    return figure
