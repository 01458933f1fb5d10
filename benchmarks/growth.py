"""Seconds and peak memory against the number of images and their size: straight lines, or why not.

    python benchmarks/growth.py [--name cpu_of_two_cores]

Runs the stages that touch every image, as programs, on the embedded world with its shipped models,
in a folder that is deleted afterwards. Seconds are those of a stage's own work; of memory, what the
smallest run needed anyway stands in the first row. Writes benchmarks/growth/NAME.csv.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from harness import arguments_of, publish

from sacd.files import read_json
from stages.code import ROOT

# As they run: the stage, its options, and where its record lies if it is measured.
STAGES = (
    ("prepare_images", [], "data/record.json"),
    ("make_autoencoder", [], None),
    ("make_backbone", ["--backbone", "resnet"], None),
    ("cache_latents", [], "latents/record.json"),
    ("cache_features", ["--backbone", "resnet"], "features/resnet/record.json"),
)
PER_CLASS, SIZES = (50, 100, 200, 400), (64, 128)


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    rows = [row for size in SIZES for count in PER_CLASS for row in measure(count, size)]
    table = pd.DataFrame(rows)
    smallest = table.groupby(["stage", "size"]).microseconds_per_image.transform("first")
    table["of_smallest"] = table.microseconds_per_image / smallest  # 1 all along: a straight line
    publish(table, "the embedded world", "growth", arguments.name)


def measure(per_class: int, size: int) -> list[dict[str, Any]]:
    """A row for each stage, on `per_class` training images of each of the 20 classes."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["images"] |= {"size": size, "per_class": {"train": per_class, "val": 2, "test": 2}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pretrained").symlink_to(ROOT / "pretrained")
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        rows = []
        for name, options, measured in STAGES:
            run(folder, name, options)
            if measured is None:
                continue
            record = read_json(folder / measured)
            images = 20 * (per_class + 4)
            rows.append(
                {
                    "stage": name, "images": images, "size": size,
                    "seconds": record["wall_seconds"],
                    "microseconds_per_image": 1e6 * record["wall_seconds"] / images,
                    "peak_memory_mb": record["peak_memory_mb"],
                }
            )  # fmt: skip
    return rows


def run(folder: Path, stage: str, options: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *options],
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    main()
