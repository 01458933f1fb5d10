"""Draw results/figures/{reconstructions,scores,tradeoffs,training}.{png,pdf} from the results."""

import argparse

import pandas as pd

from pipeline.artefacts import (
    FIGURES,
    REFERENCE_SCORES,
    ROUND_TRIP,
    adapter_folder,
    sample_folder,
)
from pipeline.inputs import open_images, rows_over_classes
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings
from pipeline.settings.sections import Settings
from pipeline.tabular import read_method_scores, read_table
from sacd.figures.intervals import plot_intervals
from sacd.figures.reconstructions import Panel, plot_reconstructions
from sacd.figures.style import rgb, save_figure, score_note
from sacd.figures.tradeoffs import plot_tradeoffs
from sacd.figures.training import plot_training
from sacd.files import read_json
from sacd.metrics.images import pixel_spread
from sacd.shards import Shards

IMAGES_SHOWN = 3
SAMPLES_SHOWN = 4


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("plot_figures"), load_settings()
    save_figure(plot_reconstructions(_rows(settings)), FIGURES / "reconstructions")
    table = read_table("main")
    metrics = ["cos_median", "top1_match", "object_iou", "spread_image"]
    present = [name for name in metrics if table[name].notna().any()]
    save_figure(plot_intervals(table[table.method != "original"], present), FIGURES / "scores")
    save_figure(plot_tradeoffs(table), FIGURES / "tradeoffs")
    histories = {
        (backbone, adapter): read_json(adapter_folder(backbone, adapter) / "training.json")[
            "history"
        ]
        for backbone in settings.compare.backbones
        for adapter in settings.compare.adapters
    }
    save_figure(plot_training(histories), FIGURES / "training")
    recorder.write(FIGURES / "record.json", settings)


def _rows(settings: Settings) -> list[tuple[str, list[Panel]]]:
    """For a few test images, a row for each backbone."""
    (test, manifest), round_trip = open_images("test"), Shards(ROUND_TRIP)
    round_trip.require_ids(test.ids, "the test split")
    rows = []
    for number in rows_over_classes(manifest, IMAGES_SHOWN):
        for backbone in settings.compare.backbones:
            references = _scores(backbone, REFERENCE_SCORES, test.ids[number])
            trip = references[references.method == "autoencoder"]
            panels = [
                Panel("original", rgb(test.read("images", [number])[0])),
                Panel(
                    "autoencoder\nround trip",
                    rgb(round_trip.read("images", [number])[0]),
                    _note(trip, 0),
                ),
            ]
            for method in settings.compare.methods:
                panels += _method_panels(backbone, method, number, test.ids, settings)
            rows.append((backbone, panels))
    return rows


def _method_panels(
    backbone: str, method: str, number: int, ids: list[str], settings: Settings
) -> list[Panel]:
    """All samples and the spread map of the main method, one sample of the others."""
    drawn = Shards(sample_folder(backbone, method))
    drawn.require_ids(ids, "the test split")
    samples, scores = drawn.read("images", [number]), _scores(backbone, method, ids[number])
    main = method == settings.compare.main_method
    shown = min(SAMPLES_SHOWN if main else 1, samples.shape[1])
    panels = [
        Panel(f"{method}\nsample {k + 1}", rgb(samples[0, k]), _note(scores, k))
        for k in range(shown)
    ]
    if main:
        spread = pixel_spread(samples.float() / 255)[0].numpy()
        panels.append(Panel(f"{method}\nspread", spread, f"mean {spread.mean():.2f}"))
    return panels


def _scores(backbone: str, method: str, image_id: str) -> pd.DataFrame:
    table = read_method_scores(backbone, method)
    return table[table.image_id == image_id]


def _note(scores: pd.DataFrame, sample: int) -> str:
    row = scores[scores["sample"] == sample].iloc[0]
    return score_note(row.cos_median, row.get("top1_match"))


if __name__ == "__main__":
    run(main)
