"""From an edit's section in params.yaml to edited features, one extent after another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.artefacts import concept_folder, feature_folder
from pipeline.inputs import load_masks, open_images, others_of, stratified_rows
from pipeline.settings.concepts import (
    EditSettings,
    LabelledConcepts,
    Mixture,
    Removal,
    Steering,
    Transplant,
    Union,
)
from pipeline.settings.sections import Settings
from sacd.concepts.directions import Directions
from sacd.concepts.edits import mix, mix_on_sphere, remove, steer, transplant
from sacd.concepts.labels import kinds_of
from sacd.concepts.regions import active_region, centre, object_region, right_half
from sacd.errors import SacdError
from sacd.provenance import require_made_of
from sacd.shards import Shards

BACKBONE, JUDGE = EYES = ("", "judge_")  # prefixes of what the backbone and the judge say

Kinds = dict[str, list[str | None]]  # of each factor, N kinds


@dataclass(frozen=True)
class Subjects:
    """The N test images whose features are edited, and for each another one of them.

    Attributes:
        ids, images, features: of them; uint8 (N, 3, S, S) and (N, C, h, w).
        logits: (N, classes) of each of the `EYES` that has a head.
        masks: bool (N, S, S) of their true objects, or None.
        others: (N,), the row of the other image, by which a map is mixed or to which it gives.
        kinds: true kinds of the factors that a probe tells.
    """

    ids: list[str]
    images: Tensor
    features: Tensor
    logits: dict[str, Tensor]
    masks: Tensor | None
    others: Tensor
    kinds: Kinds

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the feature maps."""
        return self.features.shape[-2], self.features.shape[-1]


@dataclass(frozen=True)
class Edited:
    """The subjects' features, edited in one way to one extent.

    Attributes:
        what: a direction's name, else the edit's type.
        level: the strength or weight; 0 before anything is done, 1 where there are no degrees.
        features: (N, C, h, w), what is drawn from.
        region: bool (N, h, w), where they are edited.
        wanted: (N, classes) for each of the `EYES`, how much of what should appear each class has,
            from 0 to 1; empty where nothing is known of it.
        wanted_kinds: the kinds of factors that should appear.
    """

    what: str
    level: float
    features: Tensor
    region: Tensor
    wanted: dict[str, Tensor]
    wanted_kinds: Kinds


def choose_subjects(
    settings: Settings, chosen: EditSettings, backbone: str, factors: list[str]
) -> Subjects:
    """The edit's test images, spread over the classes; `factors` are columns of the manifest."""
    shards, manifest = open_images("test")
    cached = Shards(feature_folder(backbone, "test"))
    cached.require_ids(shards.ids, str(shards.folder))
    rows = stratified_rows(shards, chosen.images)
    masks = load_masks("test", settings.images.size)[rows] if "mask" in manifest else None
    features = cached.read("features", rows).float()
    some = manifest.iloc[rows]
    ids = [shards.ids[row] for row in rows]
    others = others_of("test", ids)
    if isinstance(chosen, Union) and masks is not None:
        others = _least_overlapping(masks, torch.tensor(some.label.to_numpy()))
    return Subjects(
        ids=ids,
        images=shards.read("images", rows),
        features=features,
        logits=_logits(settings, backbone, "test", rows),
        masks=masks,
        others=others,
        kinds={factor: _kinds(manifest, factor, rows) for factor in factors},
    )


def edits_of(
    settings: Settings, chosen: EditSettings, backbone: str, subjects: Subjects
) -> Iterator[Edited]:
    """All that the section asks for, for each direction or type first at level 0.

    A mixture's other end comes before its middle.
    """
    if isinstance(chosen, Steering):
        yield from _steered(settings, chosen, backbone, subjects)
        return
    own, others = subjects.features, subjects.features[subjects.others]
    wanted, kinds = ({}, {}) if isinstance(chosen, Removal) else _of_others(subjects)
    match chosen:
        case Mixture():
            region = _region("image", subjects)
            way = mix if chosen.path == "line" else mix_on_sphere
            extents = {weight: way(own, others, weight) for weight in (1.0, *chosen.weights)}
        case Transplant():
            region = _region(chosen.region, subjects)[subjects.others]
            extents = {1.0: transplant(own, others, region)}
        case Union():
            objects = _region("object", subjects)
            region = objects[subjects.others] & ~objects
            extents = {1.0: transplant(own, others, region)}
        case Removal():
            region = _region(chosen.region, subjects)
            if bool(region.flatten(1).all(1).any()):
                height, width = subjects.grid
                raise SacdError(
                    f"edits: a removal of '{chosen.region}' leaves nothing of a {height}x{width} "
                    f"map to fill it with; use a layer with a larger one, or another region."
                )
            extents = {1.0: remove(own, region, ~region)}
    for level, features in {0.0: own, **extents}.items():
        yield Edited(chosen.type, level, features, region, wanted, kinds)


def _steered(
    settings: Settings, chosen: Steering, backbone: str, subjects: Subjects
) -> Iterator[Edited]:
    folder = concept_folder(backbone, chosen.concepts)
    require_made_of(folder, Path())
    found = Directions.load(folder / "directions.safetensors")
    for name in chosen.directions:
        row = found.row(name)
        vector, scale = found.vectors[row], float(found.scales[row])
        if chosen.where == "active":
            region = active_region(subjects.features, found, row)
        else:
            region = _region(chosen.where, subjects)
        wanted, kinds = _of_concept(settings, chosen, name, backbone, subjects)
        for strength in (0.0, *chosen.strengths):
            moved = steer(subjects.features, vector, strength * scale, region)
            yield Edited(name, strength, moved, region, wanted, kinds)


def _region(where: str, subjects: Subjects) -> Tensor:
    """bool (N, h, w) of each subject."""
    count, grid = len(subjects.ids), subjects.grid
    match where:
        case "half":
            return right_half(count, grid)
        case "centre":
            return centre(count, grid)
        case "image":
            return torch.ones(count, *grid, dtype=torch.bool)
    assert subjects.masks is not None  # the settings' check
    found = object_region(subjects.masks, grid)
    return found if where == "object" else ~found


def _of_others(subjects: Subjects) -> tuple[dict[str, Tensor], Kinds]:
    """What should appear where features of the other images were brought in."""
    wanted = {
        eye: F.one_hot(logits.argmax(1)[subjects.others], logits.shape[1]).float()
        for eye, logits in subjects.logits.items()
    }
    kinds = {
        factor: [values[row] for row in subjects.others.tolist()]
        for factor, values in subjects.kinds.items()
    }
    return wanted, kinds


def _of_concept(
    settings: Settings, chosen: Steering, name: str, backbone: str, subjects: Subjects
) -> tuple[dict[str, Tensor], Kinds]:
    """What should appear where features were steered along the direction `name`.

    A class counts by the share that have the concept of the train images that are taken for it.
    Nothing is known of directions that no labels stand behind.
    """
    column, kind = labelled(settings, chosen.concepts, name)
    if column is None:
        return {}, {}
    _, manifest = open_images("train")
    has = torch.tensor(kinds_of(manifest[column])[kind]).float()
    logits = _logits(settings, backbone, "train", list(range(len(has))))
    wanted = {}
    for eye, said in logits.items():
        taken = F.one_hot(said.argmax(1), said.shape[1]).float()
        shares = has @ taken / taken.sum(0).clamp(min=1)
        wanted[eye] = shares.expand(len(subjects.ids), -1)
    kinds: Kinds = {column: [kind] * len(subjects.ids)} if column in subjects.kinds else {}
    return wanted, kinds


def labelled(settings: Settings, concepts: str, name: str) -> tuple[str | None, str]:
    """The column of the manifest and its kind that a direction is named by; None without labels."""
    chosen = settings.concepts[concepts]
    column = chosen.column_of(name) if isinstance(chosen, LabelledConcepts) else None
    return column, name if column is None else name.removeprefix(f"{column}_")


def _logits(settings: Settings, backbone: str, split: str, rows: list[int]) -> dict[str, Tensor]:
    """What the eyes that have a head say of the images."""
    found = {}
    for eye, name in zip(EYES, (backbone, settings.compare.judge), strict=True):
        cached = Shards(feature_folder(name, split))
        if cached.has("logits"):
            found[eye] = cached.read("logits", rows).float()
    return found


def _kinds(manifest: pd.DataFrame, factor: str, rows: list[int]) -> list[str | None]:
    """The kind of each row's factor, None where it is of none (a colour without a hue)."""
    told = {kind: has[rows] for kind, has in kinds_of(manifest[factor]).items()}
    return [next((kind for kind, has in told.items() if has[n]), None) for n in range(len(rows))]


def _least_overlapping(masks: Tensor, labels: Tensor) -> Tensor:
    """For each mask, bool (N, S, S), the row of one of another class that it overlaps least."""
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T / flat.sum(1)
    overlap[labels[:, None] == labels] = float("inf")
    return overlap.argmin(1)
