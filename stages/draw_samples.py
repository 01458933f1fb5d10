"""Draw K images from the features of every test image by a method: samples/<backbone>/<method>/."""

import argparse
import time
from collections.abc import Callable

import torch

from pipeline.artefacts import feature_folder, sample_folder
from pipeline.methods import prepare
from pipeline.program import progress, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.work_folder import content, work_folder
from sacd.shards import INDEX, Arrays, Shards, finished, write_shards

IMAGES_PER_SHARD = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    recorder, settings = Recorder("draw_samples", **vars(arguments)), load_settings()
    backbone, name = arguments.backbone, arguments.method
    method = pick(settings.methods, name, "method")
    features = Shards(feature_folder(backbone, "test"))
    draw, files = prepare(settings, backbone, method)
    started, ended, images = 0.0, 0.0, 0  # of what is drawn by this process

    def make(start: int, stop: int) -> Callable[[], Arrays]:
        nonlocal started, images
        started = started or time.monotonic()
        made = draw(features.ids[start:stop], features.read("features", range(start, stop)))
        images += stop - start

        def number() -> Arrays:
            nonlocal ended
            arrays = finished(made)
            ended = time.monotonic()
            count, samples = arrays["images"].shape[:2]
            return arrays | {"sample_index": torch.arange(samples).repeat(count, 1)}

        return number

    folder = sample_folder(backbone, name)
    sections = {"seed": settings.seed, "method": method.model_dump()}
    work = work_folder(
        "draw_samples", backbone, name, sections, content(features.folder / INDEX),
        *map(content, files),
    )  # fmt: skip
    write_shards(
        folder, work, features.ids, IMAGES_PER_SHARD, make, sections,
        progress(f"samples {backbone} {name}"),
    )  # fmt: skip
    recorder.write(
        folder / "record.json",
        settings,
        seconds_per_image=(ended - started) / images if images else None,
    )


if __name__ == "__main__":
    run(main)
