"""Try a method's parameters on validation images: results/sweeps/<sweep>.{csv,png,pdf}.

Under the rows of what was tried stand, for each backbone, a ceiling (`autoencoder`: the images'
round trip) and a floor (`random_image`: another of the images).
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from torch import Tensor

from pipeline.artefacts import PRIOR, VAE_WEIGHTS, feature_folder, sweep_file
from pipeline.evaluation import (
    load_truth,
    score_images,
    scoring_sections,
    segmenter_files,
)
from pipeline.eyes import load_eyes
from pipeline.inputs import others_of
from pipeline.methods import Draw, draw_all, prepare
from pipeline.program import device, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.settings.methods import changed
from pipeline.settings.sections import Settings, SweepSettings
from pipeline.tabular import write_csv
from pipeline.work_folder import content, work_folder
from sacd.figures.style import save_figure
from sacd.figures.sweep import plot_sweep
from sacd.files import read_json, write_json
from sacd.metrics.bootstrap import summarise
from sacd.metrics.scoring import Eyes, Truth
from sacd.prior.latents import round_trip
from sacd.prior.prior import Prior
from sacd.shards import INDEX

METRICS = (
    "cos_median", "top1_match", "judge_cos_median", "judge_top1_match", "object_iou",
    "spread_image",
)  # fmt: skip

Row = dict[str, str | float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", required=True)
    name = parser.parse_args().sweep
    recorder, settings = Recorder("sweep_method", sweep=name), load_settings()
    sweep = pick(settings.sweeps, name, "sweep")
    table = pd.DataFrame(
        [
            row
            for backbone in settings.compare.backbones
            for row in _rows(name, sweep, backbone, settings)
        ]
    )
    path = sweep_file(name)
    write_csv(path, table)
    shown = [metric for metric in METRICS if metric in table]
    varied = [key for key, values in sweep.over.items() if len(values) > 1]
    save_figure(plot_sweep(table, varied or list(sweep.over), shown), path.with_suffix(""))
    recorder.write(
        path.with_suffix(".record.json"),
        settings,
    )


def _rows(name: str, sweep: SweepSettings, backbone: str, settings: Settings) -> Iterator[Row]:
    """A row for each combination of values; those of an interrupted run are not computed again."""
    truth = load_truth(backbone, settings, "val", sweep.images)
    eyes = load_eyes(backbone, settings)
    judge = settings.compare.judge
    seen = [feature_folder(network, "val") / INDEX for network in (backbone, judge)]
    seen += segmenter_files(settings)
    for changes in sweep.combinations():
        method = changed(settings.methods[sweep.method], changes)
        draw, files = prepare(settings, backbone, method)
        work = work_folder(
            "sweep_method", name, backbone, sweep.images, method.model_dump(),
            scoring_sections(settings), *map(content, [*seen, *files]),
        )  # fmt: skip
        done = work / "row.json"
        if not done.exists():
            scores = _try(draw, truth, eyes, f"{name} {backbone} {changes}", settings.seed, work)
            write_json(done, {"backbone": backbone, "method": sweep.method, **changes, **scores})
        yield read_json(done)
    vae = Prior.from_pretrained(PRIOR).vae.to(device())
    references = {
        "autoencoder": round_trip(vae, truth.images, device()),
        "random_image": truth.images[others_of("val", truth.ids)],
    }
    for reference, images in references.items():
        label = f"{name} {backbone} {reference}"
        work = work_folder(
            "sweep_method", name, backbone, sweep.images, reference, scoring_sections(settings),
            *map(content, [PRIOR / "vae" / VAE_WEIGHTS, *seen]),
        )  # fmt: skip
        scores = _score(images[:, None], truth, eyes, label, settings.seed, work)
        yield {"backbone": backbone, "method": reference, **scores}


def _try(
    draw: Draw, truth: Truth, eyes: Eyes, label: str, seed: int, work: Path
) -> dict[str, float | None]:
    """Mean scores, with intervals, of one way to draw, and its seconds an image."""
    started = time.monotonic()
    drawn = draw_all(draw, truth.ids, truth.features, f"draws {label}")
    seconds = (time.monotonic() - started) / len(truth.ids)
    return {"seconds_per_image": seconds, **_score(drawn, truth, eyes, label, seed, work)}


def _score(
    drawn: Tensor, truth: Truth, eyes: Eyes, label: str, seed: int, work: Path
) -> dict[str, float | None]:
    """Mean scores, with intervals, of images uint8 (N, K, 3, S, S)."""
    table, _ = score_images(
        truth, lambda start, stop: drawn[start:stop], eyes, f"scores {label}", work
    )
    return summarise(table, [metric for metric in METRICS if metric in table], seed)


if __name__ == "__main__":
    run(main)
