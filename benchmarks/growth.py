"""Seconds and peak memory against what an experiment can have more of: straight lines, or why not.

    python benchmarks/growth.py [--name cpu_of_two_cores]

- images, of two sizes: the stages that touch every one of them, on the embedded world with its
  shipped models, in a folder that is deleted afterwards;
- backbones: the caching of features for each, by jobs of their own, and Snakemake's planning of the
  whole experiment (`snakemake --dry-run`);
- shards of 1,024 rows of 4 KB: writing them, and reading as many rows in batches of 32 at random.

A row is a piece of work and `number` of these. Seconds of stages are those of their own work; of
memory, what the smallest run needed anyway stands in the first row. `of_smallest` is the seconds of
one of the number, relative to the row with the fewest: 1 all along is a straight line through
nought. Writes benchmarks/growth/NAME.csv.
"""

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from harness import arguments_of, publish

from pipeline.artefacts import ROOT
from sacd.files import read_json
from sacd.shards import Shards, write_shards

# As they run: the stage, its options, and where its record lies if it is measured.
STAGES = (
    ("prepare_images", [], "data/record.json"),
    ("make_autoencoder", [], None),
    ("make_backbone", ["--backbone", "resnet"], None),
    ("cache_latents", [], "latents/record.json"),
    ("cache_features", ["--backbone", "resnet"], "features/resnet/record.json"),
)
PER_CLASS, SIZES = (50, 100, 200, 400), (64, 128)
BACKBONES = (1, 2, 4, 8)
SHARDS, ROWS_PER_SHARD, ROW, BATCH = (4, 16, 64), 1024, (128, 4, 4), 32

Row = dict[str, Any]


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    rows = [row for size in SIZES for count in PER_CLASS for row in of_images(count, size)]
    rows += [row for count in BACKBONES for row in of_backbones(count)]
    rows += [row for count in SHARDS for row in of_shards(count)]
    table = pd.DataFrame(rows)
    each = table.seconds / table.number
    smallest = each.groupby([table.work, table.against, table["size"]], dropna=False).transform(
        "first"
    )
    table["of_smallest"] = each / smallest
    publish(table, "the embedded world", "growth", arguments.name)


def of_images(per_class: int, size: int) -> list[Row]:
    """A row for each stage, on `per_class` training images of each of the 20 classes."""
    rows = []
    with experiment(size, per_class) as place:
        for name, options, measured in STAGES:
            run_stage(place, name, options)
            if measured is not None:
                record = read_json(place / measured)
                images = 20 * (per_class + 4)
                rows.append(row(name, "images", images, size, **seconds_and_memory(record)))
    return rows


def of_backbones(count: int) -> list[Row]:
    """The caching of 1,080 images' features by `count` networks, and the planning of all work."""
    names = [f"resnet_{number}" for number in range(count)]
    size = SIZES[0]
    with experiment(size, PER_CLASS[0], names) as place:
        run_stage(place, "prepare_images", [])
        records = []
        for name in names:
            for stage in ("make_backbone", "cache_features"):
                run_stage(place, stage, ["--backbone", name])
            records.append(seconds_and_memory(read_json(place / "features" / name / "record.json")))
        table = pd.DataFrame(records)
        seconds, memory = table.seconds.sum(), table.peak_memory_mb.max()
        caching = row("cache_features", "backbones", count, size, seconds, memory)
        return [caching, row("snakemake --dry-run", "backbones", count, size, *planned(place))]


def of_shards(count: int) -> list[Row]:
    """Writing and reading, each by a process of its own, with a peak of memory of its own."""
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for work in (write_all, read_all):
            spawning = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawning) as process:
                found = process.submit(work, Path(place), count).result()
            rows.append(row(f"shards: {work.__name__}", "shards", count, None, *found))
    return rows


def write_all(place: Path, count: int) -> tuple[float, float]:
    """Seconds, and the peak of memory in MB."""
    ids = [str(number) for number in range(count * ROWS_PER_SHARD)]
    values = torch.randn(ROWS_PER_SHARD, *ROW).half()
    started = time.perf_counter()
    write_shards(
        place / "shards", place / "work", ids, ROWS_PER_SHARD,
        lambda start, stop: {"features": values[: stop - start]}, {},
    )  # fmt: skip
    return time.perf_counter() - started, own_peak()


def read_all(place: Path, count: int) -> tuple[float, float]:
    """Seconds, and the peak of memory in MB."""
    started = time.perf_counter()
    shards = Shards(place / "shards")
    generator = torch.Generator().manual_seed(0)
    for rows in torch.randperm(count * ROWS_PER_SHARD, generator=generator).split(BATCH):
        shards.read("features", rows.tolist())
    return time.perf_counter() - started, own_peak()


def own_peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def row(
    work: str, against: str, number: int, size: int | None, seconds: float, peak_memory_mb: float
) -> Row:
    return {
        "work": work, "against": against, "number": number, "size": size,
        "seconds": seconds, "peak_memory_mb": peak_memory_mb,
    }  # fmt: skip


def seconds_and_memory(record: Row) -> dict[str, float]:
    return {"seconds": record["wall_seconds"], "peak_memory_mb": record["peak_memory_mb"]}


@contextmanager
def experiment(size: int, per_class: int, backbones: Sequence[str] = ()) -> Iterator[Path]:
    """A folder of the embedded experiment with other images, and its ResNet under these names."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["images"] |= {"size": size, "per_class": {"train": per_class, "val": 2, "test": 2}}
    if backbones:
        params["backbones"] |= {name: params["backbones"]["resnet"] for name in backbones}
        params["compare"] |= {
            "backbones": [*backbones], "networks": [*backbones, params["compare"]["judge"]],
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pretrained").symlink_to(ROOT / "pretrained")
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        yield folder


def run_stage(folder: Path, stage: str, options: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *options],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def planned(folder: Path) -> tuple[float, float]:
    """Seconds of `snakemake --dry-run`, and its peak of memory in MB."""
    program = [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--quiet", "all"]
    where = ["--directory", str(folder), "--snakefile", str(ROOT / "Snakefile")]
    started = time.perf_counter()
    process = subprocess.Popen([*program, *where], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(program)}: status {status}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
