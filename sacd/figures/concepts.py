"""Concepts by the parts of images that go furthest along them."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure


def plot_concepts(rows: dict[str, list[tuple[str, np.ndarray]]]) -> Figure:
    """Side by side for each backbone, a row for each (label, strip of patches (H, W, 3))."""
    most = max(map(len, rows.values()))
    strips = [strip for found in rows.values() for _, strip in found]
    shape = strips[0].shape
    width = 0.42 * shape[1] / shape[0] + 1.6
    figure, axes = plt.subplots(
        most, len(rows), figsize=(width * len(rows), 0.47 * most + 0.5), squeeze=False
    )
    for (backbone, found), column in zip(rows.items(), axes.T, strict=True):
        for axis in column:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for (label, strip), axis in zip(found, column[: len(found)], strict=True):
            axis.imshow(strip)
            axis.set_ylabel(
                label, rotation=0, ha="right", va="center", fontsize=7, parse_math=False
            )
        column[0].set_title(backbone)
    return figure
