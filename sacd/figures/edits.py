"""What edits of features did: scores against the level, strips of pictures, what else changed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sacd.figures.intervals import LABELS, plot_intervals
from sacd.figures.style import COLORS

EDIT_LABELS = {
    "cos_of_asked": "median cosine with what was asked",
    "efficacy": "efficacy (share of what was asked)",
    "off_axis": "off-axis change",
    "off_region": "off-region change",
    "response": "response (linear: the diagonal)",
    "plausible": "off the manifold (percentile)",
    "judge_p_own": "judge: own class",
    "judge_p_wanted": "judge: wanted class",
}
PANELS = {
    "steering": ("efficacy", "off_axis", "off_region", "plausible", "judge_p_wanted"),
    "mixture": ("cos_of_asked", "response", "plausible", "judge_p_own", "judge_p_wanted"),
}
COMPOSED = ("cos_of_asked", "efficacy", "off_region", "judge_p_own", "judge_p_wanted")
STYLES = ("o-", "s--", "^:", "D-.")


def plot_edits(table: pd.DataFrame, kind: str) -> Figure:
    """A row of panels a backbone: scores against the level, or before and after without levels.

    Lines are what was edited, as the first method draws it, or the methods where that is one thing;
    bands are 95 % intervals.
    """
    if kind not in PANELS:
        shown = [metric for metric in COMPOSED if table[metric].notna().any()]
        when = table.level.map({0.0: ", before", 1.0: ""})
        rows = table.assign(method=table.method + when, kind="method")
        return plot_intervals(rows, shown, LABELS | EDIT_LABELS)
    panels = [metric for metric in PANELS[kind] if table[metric].notna().any()]
    backbones = list(dict.fromkeys(table.backbone))
    by = "what" if table.what.nunique() > 1 else "method"
    if by == "what":
        table = table[table.method == table.method.iloc[0]]
    figure, axes = plt.subplots(
        len(backbones), len(panels), figsize=(2.5 * len(panels) + 1, 1.9 * len(backbones) + 1.1),
        sharex=True, sharey="col", squeeze=False,
    )  # fmt: skip
    for backbone, row_axes in zip(backbones, axes, strict=True):
        for metric, axis in zip(panels, row_axes, strict=True):
            for number, name in enumerate(dict.fromkeys(table[by])):
                chosen = (table.backbone == backbone) & (table[by] == name)
                rows = table[chosen & table[metric].notna()]
                color = COLORS[number % len(COLORS)]
                style = STYLES[number % len(STYLES)]
                axis.plot(
                    rows.level, rows[metric], style, color=color, markersize=3, linewidth=1,
                    label=name,
                )  # fmt: skip
                low, high = rows[f"{metric}_low"], rows[f"{metric}_high"]
                axis.fill_between(rows.level, low, high, color=color, alpha=0.15, lw=0)
            if metric == "response":
                axis.axline((0, 0), (1, 1), color="0.7", linewidth=1)
            if metric == "efficacy":
                axis.axhline(1, color="0.7", linewidth=1)
            axis.grid(axis="y", color="0.92")
            if backbone == backbones[0]:
                axis.set_title(EDIT_LABELS[metric], fontsize=8)
        row_axes[0].set_ylabel(backbone)
    figure.supxlabel(
        "strength, in scales of the concept" if kind == "steering" else "share of the other"
    )
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=4, frameon=False, fontsize=7)  # fmt: skip
    return figure


def plot_edit_examples(
    pictures: dict[str, list[tuple[str, list[tuple[str, np.ndarray]]]]],
) -> Figure:
    """Strips of (title, image (S, S, 3)) under their labels, a block of columns a backbone."""
    blocks = list(pictures.values())
    width = len(blocks[0][0][1])
    figure, axes = plt.subplots(
        len(blocks[0]), len(blocks) * width, squeeze=False,
        figsize=(0.78 * len(blocks) * width + 1, 0.82 * len(blocks[0]) + 0.5),
    )  # fmt: skip
    for column, (backbone, strips) in enumerate(pictures.items()):
        for row, (label, strip) in enumerate(strips):
            for place, (title, image) in enumerate(strip):
                axis = axes[row][column * width + place]
                axis.imshow(image)
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if row == 0:
                    shown = f"{backbone}\n{title}" if place == 0 else title
                    axis.set_title(shown, fontsize=7, parse_math=False)
            if column == 0:
                axes[row][0].set_ylabel(
                    label, fontsize=7, rotation=0, ha="right", va="center", parse_math=False
                )
    return figure


def plot_disentanglement(table: pd.DataFrame, factors: list[str], floor: str) -> Figure:
    """A matrix a backbone (down) and positive strength (across): factor asked x factor changed."""
    backbones = list(dict.fromkeys(table.backbone))
    strengths = sorted(level for level in table.level.unique() if level > 0)
    rows = [asked for asked in dict.fromkeys(table.asked) if asked != floor] + [floor]
    figure, axes = plt.subplots(
        len(backbones), len(strengths), squeeze=False, sharex=True, sharey=True,
        figsize=(0.9 * len(factors) * len(strengths) + 2, 0.5 * len(rows) * len(backbones) + 1.2),
    )  # fmt: skip
    for backbone, row_axes in zip(backbones, axes, strict=True):
        for strength, axis in zip(strengths, row_axes, strict=True):
            found = table[(table.backbone == backbone) & table.level.isin([0.0, strength])]
            found = found[(found.level == strength) | (found.asked == floor)]
            matrix = found.pivot(index="asked", columns="factor", values="changed")
            values = matrix.reindex(index=rows, columns=factors).to_numpy(dtype=float)
            axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            for (down, across), value in np.ndenumerate(values):
                text = "" if np.isnan(value) else f"{value:.2f}"
                color = "white" if value > 0.6 else "black"
                axis.text(across, down, text, ha="center", va="center", color=color, fontsize=8)
            axis.set_xticks(range(len(factors)), factors)
            axis.set_yticks(range(len(rows)), rows)
            axis.spines[:].set_visible(False)
            if backbone == backbones[0]:
                axis.set_title(f"strength {strength:+g}", fontsize=9)
        row_axes[0].set_ylabel(backbone)
    figure.supxlabel("factor that changed (share of samples)")
    figure.supylabel("factor asked for")
    return figure
