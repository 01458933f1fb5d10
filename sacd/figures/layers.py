"""What is lost with depth: scores and samples by the layer whose features were inverted."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure

from sacd.figures.intervals import LABELS
from sacd.figures.style import COLORS

METRICS = ("cos_median", "judge_cos_median", "judge_top1_match", "psnr_db", "spread_image")
NAMES = LABELS | {"psnr_db": "PSNR (dB)"}


def plot_layers(
    table: pd.DataFrame, backbones: list[str], method: str, strips: list[dict[str, np.ndarray]]
) -> Figure:
    """Curves over `backbones` (one network's layers, shallow to deep), above strips of images.

    table: the main table. A curve each for the method and for what it stands between: `autoencoder`
    and, but for the spread, which is the samples' own, `shuffled`; bands are 95 % intervals.
    strips: for a few originals, an image (S, S, 3) by column: `original`, then each of `backbones`.
    """
    metrics = [metric for metric in METRICS if table[metric].notna().any()]
    figure = plt.figure(figsize=(2.5 * len(metrics) + 0.6, 2.7 + 1.25 * len(strips)))
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.7, 1.25 * len(strips)])
    upper, lower = parts[:, 0]
    _draw_curves(upper, table[table.backbone.isin(backbones)], backbones, method, metrics)
    axes = lower.subplots(len(strips), 1 + len(backbones), squeeze=False)
    for strip, row_axes in zip(strips, axes, strict=True):
        for (name, pixels), axis in zip(strip.items(), row_axes, strict=True):
            axis.imshow(pixels)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if strip is strips[0]:
                axis.set_title(name, fontsize=9)
    return figure


def _draw_curves(
    figure: SubFigure,
    table: pd.DataFrame,
    backbones: list[str],
    method: str,
    metrics: list[str],
) -> None:
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    lines = ((method, COLORS[0], "-"), ("autoencoder", "0.4", "--"), ("shuffled", "0.4", ":"))
    for metric, axis in zip(metrics, axes, strict=True):
        for name, color, style in lines:
            rows = table[table.method == name].set_index("backbone").loc[backbones]
            of_itself = name == "shuffled" and metric == "spread_image"
            if rows[metric].notna().all() and not of_itself:
                axis.plot(backbones, rows[metric], style, color=color, marker=".", label=name)
                axis.fill_between(
                    backbones, rows[f"{metric}_low"], rows[f"{metric}_high"], color=color, alpha=0.2
                )
        axis.set_title(NAMES.get(metric, metric), fontsize=9)
        axis.tick_params(axis="x", rotation=30)
        axis.grid(axis="y", color="0.92")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(lines), frameon=False)  # fmt: skip
