"""What fidelity costs: against seconds a sample, and against realism."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from sacd.figures.intervals import LABELS
from sacd.figures.style import COLORS, error_bars

MARKERS = "osD^vP*X<>hd"
AGAINST = {
    "seconds_per_sample": "seconds a sample (less is better)",
    "judge_frechet": "Fréchet distance, for the judge (less is better)",
}


def plot_tradeoffs(table: pd.DataFrame, metric: str = "cos_median") -> Figure:
    """A row of panels a backbone: `metric` of each method against its cost and its realism.

    Markers are open where the colours begin anew.
    """
    backbones = list(dict.fromkeys(table.backbone))
    methods = list(dict.fromkeys(table.method[table.kind == "method"]))
    figure, axes = plt.subplots(
        len(backbones), len(AGAINST), figsize=(8.5, 2.4 * len(backbones) + 0.9),
        sharex="col", sharey="row", squeeze=False,
    )  # fmt: skip
    for backbone, row_axes in zip(backbones, axes, strict=True):
        rows = table[table.backbone == backbone].set_index("method")
        for key, axis in zip(AGAINST, row_axes, strict=True):
            ceiling = rows.loc["autoencoder", metric]
            axis.axhline(ceiling, color="0.6", linewidth=1, linestyle="--", label="autoencoder")
            for number, name in enumerate(methods):
                row = rows.loc[[name]]
                axis.errorbar(
                    row[key], row[metric], yerr=error_bars(row, metric),
                    fmt=MARKERS[number % len(MARKERS)], color=COLORS[number % len(COLORS)],
                    markerfacecolor=None if number < len(COLORS) else "white",
                    label=name, markersize=6,
                )  # fmt: skip
            axis.grid(color="0.92")
        row_axes[0].set_ylabel(f"{backbone}\n{LABELS[metric]}")
    for (key, label), axis in zip(AGAINST.items(), axes[-1], strict=True):
        costs = table[key][table.kind == "method"]
        if costs.max() > 10 * costs.min() > 0:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.set_xlim(left=0)
        axis.set_xlabel(label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=5, frameon=False)  # fmt: skip
    return figure
