"""Score a method's samples: scores/<backbone>/<method>.parquet, one row an image and sample."""

import argparse

from torch import Tensor

from pipeline.artefacts import sample_folder, score_file
from pipeline.evaluation import (
    load_truth,
    score_images,
    scoring_work,
    set_scores,
    write_scores,
)
from pipeline.eyes import load_eyes
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings
from sacd import parallel
from sacd.shards import INDEX, Shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    backbone, method = arguments.backbone, arguments.method
    recorder, settings = Recorder("score_samples"), load_settings()
    truth = load_truth(backbone, settings)
    samples = Shards(sample_folder(backbone, method))
    samples.require_ids(truth.ids, "the test split")

    def drawn(start: int, stop: int) -> Tensor:
        return samples.read("images", range(start, stop))

    eyes = load_eyes(backbone, settings)
    work = scoring_work("score_samples", backbone, method, [samples.folder / INDEX], settings)
    table, judged = score_images(truth, drawn, eyes, f"scores {backbone} {method}", work)
    if not parallel.first():
        return
    table.insert(0, "method", method)
    path = score_file(backbone, method)
    write_scores(path, table, {method: set_scores(judged, truth, drawn, settings)})
    recorder.write(path.with_suffix(".record.json"), settings)


if __name__ == "__main__":
    run(main)
