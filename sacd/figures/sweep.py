"""What a method's parameters do on validation images."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sacd.figures.intervals import LABELS
from sacd.figures.style import COLORS, error_bars

REFERENCES = {
    "autoencoder": ("autoencoder (ceiling)", "--"),
    "random_image": ("random image (floor)", ":"),
}  # method: (label, line)


def plot_sweep(table: pd.DataFrame, keys: list[str], metrics: list[str]) -> Figure:
    """A panel a metric (across) and backbone (down): scores against the first of `keys`.

    Each combination of the other keys' values is a line; bars are 95 % intervals. Rows whose
    `method` is one of `REFERENCES` are drawn as levels.
    """
    first, *others = keys
    backbones = list(dict.fromkeys(table.backbone))
    figure, axes = plt.subplots(
        len(backbones), len(metrics), figsize=(2.6 * len(metrics) + 1, 1.9 * len(backbones) + 0.8),
        sharex=True, sharey="col", squeeze=False,
    )  # fmt: skip
    for backbone, row_axes in zip(backbones, axes, strict=True):
        rows = table[table.backbone == backbone]
        tried = rows[~rows.method.isin(REFERENCES)]
        groups = tried.groupby(others, sort=False) if others else [((), tried)]
        for metric, axis in zip(metrics, row_axes, strict=True):
            for (values, group), color in zip(groups, COLORS * len(tried), strict=False):
                label = ", ".join(f"{k} {v:g}" for k, v in zip(others, values, strict=True))
                axis.errorbar(
                    group[first], group[metric], yerr=error_bars(group, metric), fmt="o-",
                    markersize=3, linewidth=1, color=color, label=label or tried.method.iloc[0],
                )  # fmt: skip
            for method, (label, style) in REFERENCES.items():
                for level in rows[metric][rows.method == method]:
                    axis.axhline(level, color="0.5", linestyle=style, linewidth=1, label=label)
        row_axes[0].set_ylabel(backbone)
    for metric, axis in zip(metrics, axes[0], strict=True):
        axis.set_title(LABELS.get(metric, metric), fontsize=9)
    figure.supxlabel(first)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=4, frameon=False)  # fmt: skip
    return figure
