"""Choose and prepare the images of an experiment: manifest, skipped files, sharded pixels.

Writes data/manifest.parquet, data/skipped.csv, data/images/<split>/ and data/record.json.
"""

import argparse
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.artefacts import MANIFEST, SKIPPED, SPLITS, image_folder
from pipeline.program import progress, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings
from pipeline.settings.sections import Images
from pipeline.work_folder import work_folder
from sacd.errors import SacdError, unknown_name
from sacd.files import atomic
from sacd.images import shapes
from sacd.images.collection import Collection, Entry, Unusable, load_square
from sacd.images.manifest import pack_mask, write_manifest
from sacd.shards import fill_shards, publish_shards

ROWS_PER_SHARD = 4096

Pixels = Callable[[Any], np.ndarray]  # a row of the manifest -> (size, size, 3)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("prepare_images"), load_settings()
    if settings.images.source == "shapes":
        table, skipped, pixels = _generated(settings.images, settings.seed)
    else:
        table, skipped, pixels = _collected(settings.images, settings.seed)

    sections = {"seed": settings.seed, "images": settings.images.model_dump()}
    size = settings.images.size
    filled = {s: _fill(s, table[table.split == s], pixels, size, sections) for s in SPLITS}
    for split, work in filled.items():
        publish_shards(work, image_folder(split))
    with atomic(SKIPPED) as temporary:
        pd.DataFrame(skipped, columns=["path", "reason"]).to_csv(temporary, index=False)
    write_manifest(MANIFEST, table)
    recorder.write(Path("data/record.json"), settings, skipped=len(skipped))


def _fill(
    split: str, rows: pd.DataFrame, pixels: Pixels, size: int, sections: dict[str, Any]
) -> Path:
    """Pixels of a split, in the work folder that is returned."""

    def block(start: int, stop: int) -> dict[str, torch.Tensor]:
        # Decoding holds no lock of Python.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = np.stack(list(pool.map(pixels, rows.iloc[start:stop].itertuples())))
        return {"images": torch.from_numpy(images).permute(0, 3, 1, 2)}

    work = work_folder("prepare_images", split, sections, rows.sha256.tolist())
    ids = rows.image_id.tolist()
    fill_shards(work, ids, ROWS_PER_SHARD, block, {"size": size}, progress(f"images {split}"))
    return work


def _generated(images: Images, seed: int) -> tuple[pd.DataFrame, list[tuple[str, str]], Pixels]:
    """Scenes of the embedded world, with their true factors and masks."""
    labels = [shapes.CLASSES.index(name) for name in _generated_classes(images.classes)]
    rows = []
    drawn: dict[str, np.ndarray] = {}
    for split in SPLITS:
        rounds = range(getattr(images.per_class, split))
        indices = [turn * len(shapes.CLASSES) + label for turn in rounds for label in labels]
        for index in progress(f"scenes {split}")(iter(indices), len(indices)):
            scene = shapes.draw(seed, split, index)
            pixels, mask = shapes.render(scene, images.size)
            label = index % len(shapes.CLASSES)
            name = f"shapes-{seed}-{split}-{index:06d}"
            drawn[name] = pixels
            rows.append(
                {
                    "image_id": name,
                    "split": split,
                    "label": labels.index(label),
                    "class_name": shapes.CLASSES[label],
                    "source": str(index),
                    "width": images.size,
                    "height": images.size,
                    "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                    "crop": [0, 0, images.size, images.size],
                    "mask": pack_mask(mask),
                    **scene.factors(),
                }
            )
    return pd.DataFrame(rows), [], lambda row: drawn[row.image_id]


def _generated_classes(classes: str | int | list[str]) -> list[str]:
    if classes == "all":
        return list(shapes.CLASSES)
    if isinstance(classes, int):
        if classes > len(shapes.CLASSES):
            raise SacdError(
                f"images.classes: {classes} asked for, there are {len(shapes.CLASSES)}."
            )
        return list(shapes.CLASSES[:classes])
    for name in classes:
        if name not in shapes.CLASSES:
            raise unknown_name("class", name, shapes.CLASSES, "images.classes")
    return list(classes)


def _collected(images: Images, seed: int) -> tuple[pd.DataFrame, list[tuple[str, str]], Pixels]:
    """Photographs from a folder or archive; what cannot be used is skipped and listed."""
    collection = Collection(Path(images.source).expanduser())
    wanted = images.per_class.model_dump()
    chosen = collection.choose(images.classes, wanted, seed)
    names = sorted(chosen["train"])
    rows: list[dict[str, Any]] = []
    skipped = [(e.path, why) for e, why in collection.left_out if e.class_name in ("", *names)]
    taken: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        for number in progress(f"photographs {split}")(iter(range(len(names))), len(names)):
            name = names[number]
            usable = _usable(
                collection, chosen[split][name], wanted[split], images.size, skipped, split, taken
            )
            if len(usable) < wanted[split]:
                raise SacdError(
                    f"{images.source}: class '{name}' has {len(usable)} usable {split} images, "
                    f"images.per_class.{split} asks for {wanted[split]}.{_first(skipped)}"
                )
            for row in usable:
                row |= {"split": split, "label": names.index(name), "class_name": name}
            rows += usable
    share = len(skipped) / (len(skipped) + len(rows))
    if share > images.max_skipped:
        raise SacdError(
            f"{images.source}: {len(skipped)} images ({share:.1%}) are unusable, more than "
            f"images.max_skipped ({images.max_skipped:.1%}).{_first(skipped)}"
        )

    def pixels(row: Any) -> np.ndarray:
        try:
            return load_square(collection.read(row.source), images.size)[0]
        except Unusable as reason:
            raise SacdError(f"{images.source}: {row.source} changed meanwhile: {reason}.") from None

    return pd.DataFrame(rows), skipped, pixels


def _first(skipped: list[tuple[str, str]], count: int = 10) -> str:
    """The first skipped files with their reasons, a line each, for an error message."""
    lines = [f"  {path}: {reason}" for path, reason in skipped[:count]]
    return "\n".join([f" The first of {len(skipped)} skipped:", *lines]) if lines else ""


def _usable(
    collection: Collection,
    candidates: list[Entry],
    wanted: int,
    size: int,
    skipped: list[tuple[str, str]],
    split: str,
    taken: dict[str, tuple[str, str]],
) -> list[dict[str, Any]]:
    """Manifest rows of the first `wanted` candidates that decode; the others go to `skipped`.

    So do those whose very bytes another split has: `taken` keeps split and path by sha256.
    """

    def look(entry: Entry) -> dict[str, Any] | Unusable:
        try:
            data = collection.read(entry.path)
            _, (width, height), box = load_square(data, size)
        except Unusable as reason:
            return reason
        return {
            "image_id": entry.path,
            "source": entry.path,
            "width": width,
            "height": height,
            "sha256": hashlib.sha256(data).hexdigest(),
            "crop": list(box),
        }

    rows: list[dict[str, Any]] = []
    left = iter(candidates)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        # As many as are still wanted, so that none is skipped that comes after the last one taken.
        while batch := list(islice(left, wanted - len(rows))):
            for entry, found in zip(batch, pool.map(look, batch), strict=True):
                if isinstance(found, Unusable):
                    skipped.append((entry.path, str(found)))
                    continue
                other, path = taken.setdefault(found["sha256"], (split, entry.path))
                if other == split:
                    rows.append(found)
                else:
                    skipped.append((entry.path, f"the same picture as {path} of split {other}"))
    return rows


if __name__ == "__main__":
    run(main)
