"""Reading artefacts that several stages need, checked against the manifest."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.artefacts import MANIFEST, backbone_folder, image_folder
from pipeline.program import device
from sacd.backbones.backbone import Backbone
from sacd.features.whitening import Whitening, measure_whitening
from sacd.images.manifest import read_manifest, unpack_masks
from sacd.optimization import evenly_spaced
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
    """At most `count` rows, spread over all."""
    return evenly_spaced(torch.arange(len(shards)), count).tolist()


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
