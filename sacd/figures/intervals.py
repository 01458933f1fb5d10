"""Scores of methods as points with their intervals, between floors and ceilings."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sacd.figures.style import COLORS, error_bars

LABELS = {
    "cos_median": "median cosine of features",
    "top1_match": "same top-1 class",
    "judge_cos_median": "median cosine, for the judge",
    "judge_top1_match": "same top-1 class for the judge",
    "object_iou": "overlap with the true object (IoU)",
    "spread_image": "spread among samples (RMS)",
}


def plot_intervals(
    table: pd.DataFrame, metrics: list[str], labels: dict[str, str] = LABELS
) -> Figure:
    """One panel a metric, one line a method (in the table's order), one colour a backbone."""
    methods = list(dict.fromkeys(table.method))
    backbones = list(dict.fromkeys(table.backbone))
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(2.9 * len(metrics) + 1.2, 0.42 * len(methods) + 1.4),
        sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, backbone in enumerate(backbones):
            rows = table[(table.backbone == backbone) & table[metric].notna()]
            offset = 0.22 * (number - (len(backbones) - 1) / 2)
            heights = [methods.index(name) + offset for name in rows.method]
            axis.errorbar(
                rows[metric], heights, xerr=error_bars(rows, metric), fmt="o", markersize=4,
                color=COLORS[number % len(COLORS)], label=backbone,
            )  # fmt: skip
        axis.set_xlabel(labels.get(metric, metric))
        axis.grid(axis="x", color="0.9")
    kinds = table.drop_duplicates("method").set_index("method").kind
    names = [m if kinds[m] == "method" else f"{m} ({kinds[m]})" for m in methods]
    axes[0][0].set_yticks(range(len(methods)), names)
    axes[0][0].invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(backbones), frameon=False)  # fmt: skip
    return figure
