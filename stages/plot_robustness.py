"""Summarise a disturbance over backbones: results/robustness/<disturbance>.csv and its figures."""

import argparse

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.artefacts import robustness_file, robustness_folder
from pipeline.examples import read_examples, read_scores
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.tabular import write_csv
from sacd.figures.robustness import plot_examples, plot_robustness
from sacd.figures.style import rgb, save_figure
from sacd.metrics.bootstrap import summarise

METRICS = (
    "cos_of_features", "cos_of_image", "judge_cos_of_image", "class_of_features", "class_of_image",
    "judge_class_of_features", "judge_class_of_image", "class_of_target", "judge_class_of_target",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disturbance", required=True)
    name = parser.parse_args().disturbance
    recorder, settings = Recorder("plot_robustness", disturbance=name), load_settings()
    pick(settings.disturbances, name, "disturbance")
    rows, examples = [], {}
    for backbone in settings.compare.backbones:
        folder = robustness_folder(backbone, name)
        scores = read_scores(folder)
        examples[backbone] = _examples(read_examples(folder), scores)
        for (level, method), group in scores.groupby(["level", "method"], sort=False):
            row = {"backbone": backbone, "disturbance": name, "level": level, "method": method}
            rows.append(row | summarise(group, METRICS, settings.seed))
    table = pd.DataFrame(rows).astype({metric: float for metric in METRICS})
    path = robustness_file(name)
    write_csv(path, table)
    save_figure(plot_robustness(table, name), path.with_suffix(""))
    save_figure(plot_examples(examples), path.with_name(f"{name}_examples"))
    recorder.write(
        path.with_suffix(".record.json"),
        settings,
    )


def _examples(stored: dict[str, Tensor], scores: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Pictures of one image by method and level, in the order of the scores."""
    levels = list(dict.fromkeys(scores.level))
    return {
        method: dict(zip(levels, map(rgb, stored[method]), strict=True))
        for method in dict.fromkeys(scores.method)
        if method in stored
    }


if __name__ == "__main__":
    run(main)
