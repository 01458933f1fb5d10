"""Is the condition used? Held-out losses with the true, a shuffled and the null feature."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from sacd.figures.style import COLORS

LINES = (("loss_true", "true"), ("loss_shuffled", "shuffled"), ("loss_null", "null"))


def plot_training(histories: dict[tuple[str, str], list[dict[str, float]]]) -> Figure:
    """One panel for each (backbone, adapter): held-out loss against training step."""
    backbones = list(dict.fromkeys(backbone for backbone, _ in histories))
    adapters = list(dict.fromkeys(adapter for _, adapter in histories))
    figure, axes = plt.subplots(
        len(adapters),
        len(backbones),
        figsize=(2.6 * len(backbones) + 1, 1.9 * len(adapters) + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for (backbone, adapter), history in histories.items():
        axis = axes[adapters.index(adapter)][backbones.index(backbone)]
        checked = [entry for entry in history if "loss_true" in entry]
        steps = [entry["step"] for entry in checked]
        for (key, label), color in zip(LINES, COLORS, strict=False):
            values = [entry[key] for entry in checked]
            axis.plot(steps, values, "o-", markersize=3, color=color, label=label)
        axis.set_title(f"{backbone}, {adapter}", fontsize=9)
    figure.supxlabel("training step")
    figure.supylabel("held-out denoising loss")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center",
                  ncols=len(LINES), frameon=False, title="feature given")  # fmt: skip
    return figure
