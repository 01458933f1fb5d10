"""The picture of the method: originals beside what was drawn from their features."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sacd.figures.style import SPREAD_LIMIT


@dataclass(frozen=True)
class Panel:
    """One picture of a row: an RGB image (H, W, 3) or a map (H, W), with text below it."""

    title: str
    pixels: np.ndarray
    note: str = ""


def plot_reconstructions(rows: list[tuple[str, list[Panel]]]) -> Figure:
    """A grid with a labelled row of panels for each (label, panels); titles stand on top.

    Maps are drawn in magma with one colour bar for all.
    """
    columns = len(rows[0][1])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.12 * columns + 0.9, 1.33 * len(rows) + 0.6), squeeze=False
    )
    drawn = None
    for (label, panels), row_axes in zip(rows, axes, strict=True):
        for panel, axis in zip(panels, row_axes, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if panel.pixels.ndim == 2:
                drawn = axis.imshow(panel.pixels, cmap="magma", vmin=0, vmax=SPREAD_LIMIT)
            else:
                axis.imshow(panel.pixels)
            axis.set_xlabel(panel.note, fontsize=7, labelpad=2)
        row_axes[0].set_ylabel(label, fontsize=9)
    for panel, axis in zip(rows[0][1], axes[0], strict=True):
        axis.set_title(panel.title, fontsize=8)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=axes, shrink=0.4, aspect=30, pad=0.01)
        bar.set_label("deviation among samples (0: all alike)")
    return figure
