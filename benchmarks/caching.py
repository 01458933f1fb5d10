"""How near the caching of features comes to the backbone's bare forward rate, and what images cost.

    python benchmarks/caching.py [EXPERIMENT] [--images 1024] [--name cpu_of_two_cores]

For each network of a finished experiment, images a second:

- `bare`: forward passes on one batch that stays where it is;
- `rule`: what the rule does: read images from shards, forward, halve, check, write shards.

And of JPEG files of 500 x 375 px, photographs' usual size: decoding, cropping and resizing by the
pipeline's own function, by one thread and by as many as there are cores. Beside the rule's rate
stand the megabytes a second that it writes, or of JPEG files reads. Writes
benchmarks/caching/NAME.csv.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from harness import add_experiment, arguments_of, publish, synchronise
from PIL import Image

from pipeline.program import device
from pipeline.settings.load import load_settings
from sacd.backbones.backbone import Backbone
from sacd.features.cache import BATCH, extract
from sacd.images.collection import load_square
from sacd.shards import Shards, write_shards
from stages.cache_features import ROWS_PER_SHARD

JPEGS, JPEG_SIZE = 200, (500, 375)


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--images", type=int, default=1024)
    arguments = parser.parse_args()
    settings = load_settings(arguments.experiment / "params.yaml")
    images = Shards(arguments.experiment / "data/images/train")
    count = min(arguments.images, len(images))
    rows = []
    for name in settings.compare.networks:
        folder = arguments.experiment / "models/backbones" / name
        backbone = Backbone.from_pretrained(folder).to(device())
        bare, (rule, size) = bare_rate(backbone, images, count), rule_rate(backbone, images, count)
        rows.append(
            {"what": name, "bare": bare, "rule": rule, "rule_over_bare": rule / bare}
            | {"megabytes_per_second": rule * size / 1e6}
        )
    photograph = jpeg()
    for threads in (1, os.cpu_count() or 1):
        rate = jpeg_rate(photograph, settings.images.size, threads)
        rows.append(
            {"what": f"JPEG to {settings.images.size} px, threads: {threads}", "rule": rate}
            | {"megabytes_per_second": rate * len(photograph) / 1e6}
        )
    table = pd.DataFrame(rows)
    publish(table, "images a second", "caching", arguments.name)


@torch.no_grad()
def bare_rate(backbone: Backbone, images: Shards, count: int) -> float:
    """Images a second through the network alone."""
    batch = images.read("images", range(min(BATCH, count))).to(device()).float() / 255
    backbone(batch)  # warms up
    started = time.perf_counter()
    batches = max(1, count // len(batch))
    for _ in range(batches):
        backbone(batch)
    synchronise()
    return batches * len(batch) / (time.perf_counter() - started)


def rule_rate(backbone: Backbone, images: Shards, count: int) -> tuple[float, float]:
    """Images a second from shard to shard, and the bytes that are written of each."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        started = time.perf_counter()
        write_shards(
            made,
            Path(folder) / "work",
            images.ids[:count],
            ROWS_PER_SHARD,
            lambda start, stop: extract(
                backbone, images.read("images", range(start, stop)), device()
            ),
            {},
        )
        seconds = time.perf_counter() - started
        written = sum(path.stat().st_size for path in made.iterdir())
        return count / seconds, written / count


def jpeg() -> bytes:
    """A file of photographs' usual size."""
    pixels = np.random.default_rng(0).integers(0, 256, (25, 33, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize(JPEG_SIZE, Image.Resampling.BICUBIC)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def jpeg_rate(photograph: bytes, size: int, threads: int) -> float:
    """Files a second."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: load_square(photograph, size), range(JPEGS)))
    return JPEGS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
