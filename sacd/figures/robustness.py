"""What reconstructions show when their input is disturbed: the features, or the image?"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sacd.figures.style import COLORS

# A panel: title, and what its solid and its dashed lines show.
PANELS = (
    ("median cosine of features", "cos_of_features", "cos_of_image"),
    ("same top-1 class, for the backbone", "class_of_features", "class_of_image"),
    ("same top-1 class, for the judge", "judge_class_of_features", "judge_class_of_image"),
)
REFERENCES = {"autoencoder": "0.45", "shuffled": "0.75"}  # drawn in these greys


def plot_robustness(table: pd.DataFrame, name: str) -> Figure:
    """A row of panels a backbone: each method's scores against the level of the disturbance.

    Solid lines: agreement with the features that were given; dashed: with the image as it was. The
    method `input` is the disturbed image itself. Bands are 95 % intervals; ceiling and floor are
    grey and have none.
    """
    panels = [panel for panel in PANELS if table[panel[2]].notna().any()]
    backbones = list(dict.fromkeys(table.backbone))
    levels = list(dict.fromkeys(table.level))
    methods = [name for name in dict.fromkeys(table.method) if name != "original"]
    colors = {name: color for name, color in zip(methods, COLORS * len(methods), strict=False)}
    colors |= REFERENCES
    figure, axes = plt.subplots(
        len(backbones), len(panels), figsize=(3.2 * len(panels) + 0.8, 2.1 * len(backbones) + 1.1),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for backbone, row_axes in zip(backbones, axes, strict=True):
        for (title, given, image), axis in zip(panels, row_axes, strict=True):
            for method in methods:
                rows = table[(table.backbone == backbone) & (table.method == method)]
                _draw_curve(axis, rows, given, "o-", colors[method], method)
                _draw_curve(axis, rows, image, "s--", colors[method], None)
            axis.grid(axis="y", color="0.92")
            axis.set_ylim(-0.03, 1.03)
            if backbone == backbones[0]:
                axis.set_title(title, fontsize=9)
        row_axes[0].set_ylabel(backbone)
    axes[0][0].set_xticks(range(len(levels)), [_short(level) for level in levels])
    figure.supxlabel(name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    handles += [Line2D([], [], color="0.3"), Line2D([], [], color="0.3", linestyle="--")]
    labels += ["as the features say", "as the image was"]
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * len(panels), frameon=False)
    return figure


def _draw_curve(
    axis: Axes, rows: pd.DataFrame, metric: str, style: str, color: str, label: str | None
) -> None:
    """A method's metric against the level, with its band; nothing where it has no such score."""
    if rows[metric].isna().all():
        return
    axis.plot(rows.level, rows[metric], style, color=color, markersize=3, linewidth=1, label=label)
    if color not in REFERENCES.values():
        low, high = rows[f"{metric}_low"], rows[f"{metric}_high"]
        axis.fill_between(rows.level, low, high, color=color, alpha=0.15, linewidth=0)


def plot_examples(pictures: dict[str, dict[str, dict[str, np.ndarray]]]) -> Figure:
    """Images (S, S, 3) by backbone, method and level: a block a backbone, methods down in each."""
    methods = list(next(iter(pictures.values())))
    levels = list(pictures[next(iter(pictures))][methods[0]])
    figure, axes = plt.subplots(
        len(methods), len(pictures) * len(levels), squeeze=False,
        figsize=(0.75 * len(pictures) * len(levels) + 0.8, 0.8 * len(methods) + 0.5),
    )  # fmt: skip
    for row_axes, method in zip(axes, methods, strict=True):
        shown = [(b, level) for b in pictures for level in levels]
        for axis, (backbone, level) in zip(row_axes, shown, strict=True):
            axis.imshow(pictures[backbone][method][level])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if method == methods[0]:
                title = _short(level)
                axis.set_title(f"{backbone}\n{title}" if level == levels[0] else title, fontsize=7)
        row_axes[0].set_ylabel(method, fontsize=7)
    return figure


def _short(level: str) -> str:
    """A level as it is written, but of a folder's path the last part."""
    return level.rsplit("/", 1)[-1]
