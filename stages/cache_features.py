"""Run a backbone over the prepared images of every split: features/<backbone>/<split>/."""

import argparse
from pathlib import Path

from torch import Tensor

from pipeline.artefacts import SPLITS, backbone_folder, feature_folder, image_folder
from pipeline.program import device, progress, run
from pipeline.record import Recorder
from pipeline.work_folder import content, work_folder
from sacd.backbones.backbone import WEIGHTS, Backbone
from sacd.features.cache import extract
from sacd.networks import CONFIG
from sacd.shards import INDEX, Shards, fill_shards, publish_shards

ROWS_PER_SHARD = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    name = parser.parse_args().backbone
    recorder = Recorder("cache_features", backbone=name)
    folder = backbone_folder(name)
    backbone = Backbone.from_pretrained(folder).to(device())
    identity = [content(folder / file) for file in (CONFIG, WEIGHTS)]
    filled = {split: _extract(name, split, backbone, identity) for split in SPLITS}
    for split, work in filled.items():
        publish_shards(work, feature_folder(name, split))
    recorder.write(
        Path("features") / name / "record.json", backbone=vars(backbone.config), files=identity
    )


def _extract(name: str, split: str, backbone: Backbone, identity: list[str]) -> Path:
    """Features of a split, in the work folder that is returned."""
    images = Shards(image_folder(split))

    def block(start: int, stop: int) -> dict[str, Tensor]:
        return extract(backbone, images.read("images", range(start, stop)), device())

    work = work_folder("cache_features", name, split, content(images.folder / INDEX), *identity)
    bar = progress(f"features {name} {split}")
    fill_shards(work, images.ids, ROWS_PER_SHARD, block, {"layer": backbone.config.layer}, bar)
    return work


if __name__ == "__main__":
    run(main)
