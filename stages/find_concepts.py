"""Find directions in a backbone's feature space: concepts/<backbone>/<concepts>/.

directions.safetensors holds them; patches.safetensors, for each, the parts of train images that go
furthest along it, uint8 (concepts, PATCHES, 3, P, P); accuracy.json, where labels told what to look
for, how well the direction tells it on images that it was not found on (0.5 is chance).
"""

import argparse

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.artefacts import backbone_folder, concept_folder, feature_folder
from pipeline.inputs import load_backbone, load_masks, open_images, stratified_rows
from pipeline.program import device, progress, run
from pipeline.record import Recorder
from pipeline.settings.concepts import ClassConcepts, FactoredConcepts, LabelledConcepts
from pipeline.settings.load import load_settings, pick
from sacd.backbones.backbone import WEIGHTS
from sacd.concepts.directions import (
    Directions,
    activation_vector,
    class_directions,
    locations,
    nonnegative_factors,
    principal_components,
    sparse_atoms,
)
from sacd.concepts.labels import kinds_of, pooled
from sacd.concepts.patches import best_patches
from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, write_json
from sacd.optimization import evenly_spaced
from sacd.shards import Shards

LOCATIONS = 8192  # channel vectors that directions are found on, at most
GRADIENT_IMAGES = 64  # at most, over which a class's direction is averaged
PATCHES = 8  # shown of each concept, of as many images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--concepts", required=True)
    arguments = parser.parse_args()
    backbone, name = arguments.backbone, arguments.concepts
    recorder, settings = (
        Recorder("find_concepts", backbone=backbone, concepts=name),
        load_settings(),
    )
    chosen = pick(settings.concepts, name, "set of concepts")
    shards, manifest = open_images("train")
    cached = Shards(feature_folder(backbone, "train"))
    cached.require_ids(shards.ids, str(shards.folder))
    rows = stratified_rows(shards, chosen.images)
    features = cached.read("features", rows).float()
    values = locations(features, LOCATIONS, settings.seed)
    scales, accuracy = None, dict[str, float]()
    match chosen:
        case FactoredConcepts():
            names, vectors = _factors(chosen, values, settings.seed, f"concepts.{name}.count")
        case ClassConcepts():
            logits = cached.read("logits", rows) if cached.has("logits") else None
            names, vectors = _classes(backbone, chosen.count, features, logits, manifest)
        case LabelledConcepts():
            masks = load_masks("train", settings.images.size)[rows] if "mask" in manifest else None
            averages = pooled(features, masks, chosen.where)
            where = f"concepts.{name}.columns"
            kinds = _kinds(chosen.columns, manifest.iloc[rows], where)
            vectors, scales, accuracy = _labels(
                kinds, averages, chosen.vector, settings.seed, where
            )
            names = list(accuracy)
    directions = Directions.measured(names, vectors, values, scales)
    shown = min(PATCHES, len(rows))
    patches = best_patches(directions.vectors, features, shards.read("images", rows), shown)
    folder = concept_folder(backbone, name)
    with atomic(folder) as temporary:
        temporary.mkdir()
        directions.save(temporary / "directions.safetensors")
        save_file({"patches": patches}, temporary / "patches.safetensors")
        write_json(temporary / "accuracy.json", accuracy)
    recorder.write(
        folder / "record.json",
        settings,
        made_of=[backbone_folder(backbone) / WEIGHTS],
    )


def _factors(
    chosen: FactoredConcepts, values: Tensor, seed: int, where: str
) -> tuple[list[str], Tensor]:
    count, channels = values.shape
    if chosen.type != "dictionary" and chosen.count > min(count, channels):
        raise SacdError(
            f"{where}: {chosen.count} asked for, but features have {channels} channels, at {count} "
            f"locations in all."
        )
    match chosen.type:
        case "pca":
            vectors = principal_components(values, chosen.count)
        case "nmf":
            vectors = nonnegative_factors(values, chosen.count, seed)
        case "dictionary":
            vectors = sparse_atoms(values, chosen.count, seed)
    return [f"{chosen.type}_{number + 1}" for number in range(len(vectors))], vectors


def _classes(
    backbone: str, count: int, features: Tensor, logits: Tensor | None, manifest: pd.DataFrame
) -> tuple[list[str], Tensor]:
    """The classes seen most often, by the manifest's names where the head has the same classes."""
    if logits is None:
        raise SacdError(f"concepts of type 'classes': backbone '{backbone}' has no head.")
    known = manifest.drop_duplicates("label").sort_values("label").class_name.tolist()
    names = known if len(known) == logits.shape[1] else range(logits.shape[1])
    often = logits.argmax(1).bincount(minlength=logits.shape[1]).argsort(descending=True)[:count]
    some = evenly_spaced(features, GRADIENT_IMAGES).to(device())
    vectors = class_directions(load_backbone(backbone), some).cpu()
    return [f"class_{names[number]}" for number in often.tolist()], vectors[often]


def _kinds(columns: list[str], manifest: pd.DataFrame, where: str) -> dict[str, Tensor]:
    """By name, which rows, bool (N,), have what the columns (`where` names them) tell apart."""
    for column in columns:
        if column not in manifest:
            raise unknown_name("column of the manifest", column, manifest.columns, where)
    return {
        f"{column}_{kind}": torch.from_numpy(rows)
        for column in columns
        for kind, rows in kinds_of(manifest[column]).items()
    }


def _labels(
    kinds: dict[str, Tensor], averages: Tensor, vector: str, seed: int, where: str
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """A direction for each kind, its scale, and how well it tells it."""
    vectors, scales, accuracy = [], [], {}
    names = list(kinds)
    for number in progress("concepts")(iter(range(len(names))), len(names)):
        name = names[number]
        try:
            found, scale, accuracy[name] = activation_vector(averages, kinds[name], vector, seed)
        except SacdError as error:
            raise SacdError(f"{where}: '{name}': {error}") from error
        vectors.append(found)
        scales.append(scale)
    return torch.stack(vectors), torch.tensor(scales), accuracy


if __name__ == "__main__":
    run(main)
