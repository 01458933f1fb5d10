"""From a disturbance's section in params.yaml to what a backbone is given, level by level."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artefacts import feature_folder, image_folder
from pipeline.eyes import classify, see
from pipeline.inputs import open_images, stratified_rows
from pipeline.settings.sections import (
    Attack,
    Corruption,
    DisturbanceSettings,
    FeatureDisturbance,
    Settings,
    Unseen,
)
from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError
from sacd.images import shapes
from sacd.images.collection import Collection, Unusable, load_square
from sacd.robustness.attacks import attack
from sacd.robustness.corruptions import CORRUPTIONS
from sacd.robustness.features import (
    ChannelRange,
    add_feature_noise,
    drop_channels,
    quantise,
)
from sacd.sampling.noise import initial_noise, noise_seed
from sacd.shards import Shards

UNDISTURBED = "none"
CHANNEL_IMAGES = 512  # at most, to measure how far each channel goes


@dataclass(frozen=True)
class Level:
    """N inputs disturbed to one degree.

    Attributes:
        name: the level as params.yaml writes it, or `UNDISTURBED`.
        ids: of the images.
        originals: uint8 (N, 3, S, S), what the images were.
        images: uint8 (N, 3, S, S), what they became; the originals, where features were disturbed.
        features: (N, C, h, w), what reconstructions are drawn from.
        logits: (N, classes), the head's word on these features, or None.
        target: (N,), the classes that an attack leads to, or None.
    """

    name: str
    ids: list[str]
    originals: Tensor
    images: Tensor
    features: Tensor
    logits: Tensor | None
    target: Tensor | None = None


def levels_of(
    settings: Settings, name: str, chosen: DisturbanceSettings, backbone: Backbone, whose: str
) -> Iterator[Level]:
    """No disturbance, then each level of the disturbance `name`, for the backbone named `whose`."""
    test = Shards(image_folder("test"))
    rows = stratified_rows(test, chosen.images)
    ids, images = [test.ids[row] for row in rows], test.read("images", rows)
    none = Level(UNDISTURBED, ids, images, images, *see(backbone, images))
    if isinstance(chosen, Attack) and chosen.targeted:
        none = replace(none, target=_other_classes(none, settings.seed))
    yield none
    keys = [(f"{image}, {name}", 0) for image in ids]
    match chosen:
        case Unseen():
            for factor in chosen.levels:
                unseen = _unseen(settings, factor, rows, f"disturbances.{name}.levels")
                yield Level(factor, ids, unseen, unseen, *see(backbone, unseen))
        case FeatureDisturbance():
            noise = initial_noise(settings.seed, keys, none.features.shape[1:])
            usual = _usual_range(whose)
            for level in chosen.levels:
                maps = _disturbed(none.features, chosen.kind, level, noise, usual)
                logits = classify(backbone, maps)
                yield replace(none, name=f"{level:g}", features=maps, logits=logits)
        case Corruption():
            noise = initial_noise(settings.seed, keys, images.shape[1:])
            for level in chosen.levels:
                changed = CORRUPTIONS[chosen.kind](images, level, noise)
                yield Level(f"{level:g}", ids, images, changed, *see(backbone, changed))
        case Attack():
            classes = _classes(none) if none.target is None else none.target
            for level in chosen.levels:
                changed = attack(
                    backbone, images, classes, chosen.kind, chosen.targeted, level, chosen.steps,
                    settings.seed,
                )  # fmt: skip
                features, logits = see(backbone, changed)
                yield replace(
                    none, name=f"{level:g}", images=changed, features=features, logits=logits
                )


def _usual_range(backbone: str) -> ChannelRange:
    train = Shards(feature_folder(backbone, "train"))
    return ChannelRange.of(train.read("features", stratified_rows(train, CHANNEL_IMAGES)))


def _disturbed(
    features: Tensor, kind: str, level: float, noise: Tensor, usual: ChannelRange
) -> Tensor:
    if kind == "noise":
        return add_feature_noise(features, level, noise, usual)
    if kind == "dropout":
        return drop_channels(features, level, noise)
    return quantise(features, round(level), usual)


def _classes(undisturbed: Level) -> Tensor:
    """The classes (N,) that the backbone sees."""
    if undisturbed.logits is None:
        raise SacdError("An attack needs class logits, and this backbone has no head.")
    return undisturbed.logits.argmax(1)


def _other_classes(undisturbed: Level, seed: int) -> Tensor:
    """Another class for each image, drawn by the image's name."""
    classes, count = _classes(undisturbed), undisturbed.logits.shape[1]  # type: ignore[union-attr]
    seeds = torch.tensor([noise_seed(seed, image, 0) for image in undisturbed.ids])
    return (classes + 1 + seeds % (count - 1)) % count


def _unseen(settings: Settings, level: str, rows: list[int], where: str) -> Tensor:
    """As many images as there are rows: the test scenes changed, or another collection's."""
    if settings.images.source != "shapes":
        return _photographs(Path(level).expanduser(), settings, len(rows), where)
    _, table = open_images("test")
    scenes = [
        shapes.draw_unseen(settings.seed, int(index), level) for index in table.source.iloc[rows]
    ]
    pixels = [torch.from_numpy(shapes.render(scene, settings.images.size)[0]) for scene in scenes]
    return torch.stack(pixels).permute(0, 3, 1, 2).contiguous()


def _photographs(source: Path, settings: Settings, count: int, where: str) -> Tensor:
    """The first `count` usable of a collection's images, in an order fixed by the seed.

    Those that come before them and cannot be used are named on stderr.
    """
    collection = Collection(source, where)
    entries = collection.entries
    order = torch.randperm(
        len(entries), generator=torch.Generator().manual_seed(settings.seed)
    ).tolist()
    found: list[Tensor] = []
    for number in order:
        try:
            pixels = load_square(collection.read(entries[number].path), settings.images.size)[0]
        except Unusable as reason:
            print(f"{where}: skipped {entries[number].path}: {reason}", file=sys.stderr)
            continue
        found.append(torch.from_numpy(pixels).permute(2, 0, 1))
        if len(found) == count:
            return torch.stack(found)
    raise SacdError(f"{where}: {source}: {len(found)} usable images, {count} are asked for.")
