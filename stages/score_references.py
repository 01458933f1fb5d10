"""Score floors and ceilings on the same test images: scores/<backbone>/references.parquet.

Ceilings: original, the image itself; autoencoder, its round trip. Floors: shuffled, the main
method's samples for another image; random_image, a train image drawn at random. Neither:
same_class, another test image of its class.
"""

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.artefacts import (
    MANIFEST,
    REFERENCE_SCORES,
    ROUND_TRIP,
    image_folder,
    sample_folder,
    score_file,
)
from pipeline.evaluation import (
    load_truth,
    score_images,
    scoring_work,
    set_scores,
    write_scores,
)
from pipeline.eyes import load_eyes
from pipeline.inputs import open_images
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings
from pipeline.settings.sections import Settings
from sacd import parallel
from sacd.shards import INDEX, Shards

Images = Callable[[int, int], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    backbone = parser.parse_args().backbone
    recorder, settings = Recorder("score_references"), load_settings()
    truth = load_truth(backbone, settings)
    eyes = load_eyes(backbone, settings)
    sources = [
        sample_folder(backbone, settings.compare.main_method), ROUND_TRIP, image_folder("train")
    ]  # fmt: skip
    inputs = [MANIFEST, *(folder / INDEX for folder in sources)]
    tables, sets = [], {}
    for name, images in _references(backbone, truth.images, settings).items():
        work = scoring_work("score_references", backbone, name, inputs, settings)
        table, judged = score_images(truth, images, eyes, f"scores {backbone} {name}", work)
        if not parallel.first():
            continue
        table.insert(0, "method", name)
        tables.append(table)
        sets[name] = set_scores(judged, truth, images, settings)
    if not parallel.first():
        return
    path = score_file(backbone, REFERENCE_SCORES)
    write_scores(path, pd.concat(tables, ignore_index=True), sets)
    recorder.write(path.with_suffix(".record.json"), settings)


def _references(backbone: str, test: Tensor, settings: Settings) -> dict[str, Images]:
    rng = np.random.default_rng(settings.seed)
    shards, manifest = open_images("test")
    labels = manifest.label.to_numpy()
    train = Shards(image_folder("train"))
    classmates = [rng.choice(_others(labels == labels[i], i)) for i in range(len(labels))]
    drawn = rng.choice(len(train), len(test), replace=False).tolist()
    samples = Shards(sample_folder(backbone, settings.compare.main_method))
    samples.require_ids(shards.ids, "the test split")
    round_trip = Shards(ROUND_TRIP)
    round_trip.require_ids(shards.ids, "the test split")
    # Everyone gets the samples of the next in a random order. The manifest's order would pair
    # classes that are alike.
    order = rng.permutation(len(test))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)

    def shuffled(start: int, stop: int) -> Tensor:
        return samples.read("images", other[start:stop].tolist())

    return {
        "original": lambda start, stop: test[start:stop, None],
        "autoencoder": lambda start, stop: round_trip.read("images", range(start, stop))[:, None],
        "same_class": lambda start, stop: test[classmates[start:stop], None],
        "shuffled": shuffled,
        "random_image": lambda start, stop: train.read("images", drawn[start:stop])[:, None],
    }


def _others(members: np.ndarray, me: int) -> np.ndarray:
    """Rows of a class without `me`, or `me` where it stands alone."""
    rows = np.flatnonzero(members)
    return rows[rows != me] if len(rows) > 1 else rows


if __name__ == "__main__":
    run(main)
