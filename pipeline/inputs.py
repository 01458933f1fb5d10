"""Reading artefacts that several stages need, checked against the manifest."""

from collections.abc import Sequence
from functools import cache
from math import gcd
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.artefacts import MANIFEST, SPLITS, backbone_folder, image_folder
from pipeline.program import device
from sacd.backbones.backbone import Backbone
from sacd.features.whitening import Whitening, measure_whitening
from sacd.images.manifest import read_manifest, unpack_masks
from sacd.shards import Shards

WHITENING_IMAGES = 2048  # at most


def open_images(split: str) -> tuple[Shards, pd.DataFrame]:
    """Images of a split and their rows of the manifest, in one order."""
    shards, table = Shards(image_folder(split)), read_manifest(MANIFEST, split)
    shards.require_ids(table.image_id.tolist(), str(MANIFEST))
    return shards, table


def load_images(split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, H, W) and labels int64 (N,) of a split."""
    shards, table = open_images(split)
    return shards.read_all("images"), torch.tensor(table.label.to_numpy())


def load_masks(split: str, size: int) -> Tensor:
    """Masks of the true objects, bool (N, size, size), in the order of the images."""
    return torch.from_numpy(unpack_masks(open_images(split)[1]["mask"], size))


def rows_over_classes(manifest: pd.DataFrame, count: int) -> list[int]:
    """Rows of images to show, spread over the classes; by a rule, so that nobody picked them."""
    by_class = np.argsort(manifest.label.to_numpy(), kind="stable")
    places = np.linspace(0, len(manifest) - 1, count + 2).round().astype(int)[1:-1]
    return by_class[places].tolist()


def stratified_rows(shards: Shards, count: int) -> list[int]:
    """At most `count` rows, in their order, as many of each class as can be."""
    labels = _labels(MANIFEST).loc[shards.ids].to_numpy()
    return sorted(stratified(labels)[:count].tolist())


def stratified(labels: np.ndarray) -> np.ndarray:
    """All rows, so that the first of them, however many, are of as many classes as can be.

    Classes come in steps of about 0.38 of their number (the golden ratio), for neighbours are
    alike: classes of the embedded world are pairs of shape and fill, in order.
    """
    classes, places = np.unique(labels, return_inverse=True)
    coprime = [step for step in range(1, len(classes) + 1) if gcd(step, len(classes)) == 1]
    step = min(coprime, key=lambda step: abs(step - 0.382 * len(classes)))
    turn = np.empty(len(classes), int)
    turn[np.arange(len(classes)) * step % len(classes)] = np.arange(len(classes))
    within = pd.Series(places).groupby(places).cumcount().to_numpy()
    return np.lexsort((turn[places], within))


@cache
def _labels(manifest: Path) -> pd.Series:
    """Labels of all images by their ids."""
    return pd.concat(
        [read_manifest(manifest, split).set_index("image_id").label for split in SPLITS]
    )


def others_of(split: str, ids: Sequence[str]) -> Tensor:
    """For each of these images of a split another one of them, by its row, (N,).

    Half the set away in the order of classes: of another class, unless one has more than half.
    """
    labels = read_manifest(MANIFEST, split).set_index("image_id").label.loc[list(ids)]
    by_class = torch.from_numpy(np.argsort(labels.to_numpy(), kind="stable"))
    others = torch.empty_like(by_class)
    others[by_class] = by_class.roll(len(by_class) // 2)
    return others


def load_backbone(name: str) -> Backbone:
    """One of the experiment's networks, on the device that computes."""
    return Backbone.from_pretrained(backbone_folder(name)).to(device())


def whitening_of(features: Shards, pooled: bool) -> Whitening:
    """The whitening that a network which is given these features begins with."""
    some = features.read("features", stratified_rows(features, WHITENING_IMAGES))
    return measure_whitening(some.split(64), pooled)
