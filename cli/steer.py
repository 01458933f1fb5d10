"""Steer the features of one image along a concept, and draw what they become."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cli.one_image import Opened, Request, draw, open_request, read_file, require_kind, square
from pipeline.artefacts import concept_folder
from sacd.concepts.directions import Directions
from sacd.concepts.edits import steer
from sacd.concepts.effects import efficacy, off_target
from sacd.concepts.regions import active_region, object_region
from sacd.errors import SacdError, unknown_name
from sacd.figures.edits import plot_edit_examples
from sacd.figures.style import render, rgb
from sacd.files import atomic
from sacd.provenance import require_made_of
from sacd.sampling.inverter import experiment_of

KINDS = (".png", ".pdf")


@dataclass(frozen=True)
class SteerRequest(Request):
    """`concept` by its name, in the file `concepts` or else among those of the experiment.

    Steered by each of `strengths`, in units of its scale: where the white of the image `mask` is,
    else where `where` says.
    """

    concept: str
    concepts: Path | None
    strengths: list[float]
    where: str
    mask: Path | None


def steer_image(request: SteerRequest) -> None:
    """Write a strip over strengths to `request.out` (.png, .pdf); print whether it landed."""
    require_kind(request.out, KINDS)
    opened = open_request(request)
    found = _directions(request, opened)
    row = found.row(request.concept)
    features = opened.inverter.features(opened.images).cpu()
    if found.vectors.shape[1] != features.shape[1]:
        raise SacdError(
            f"concept '{request.concept}' is of {found.vectors.shape[1]} channels, but features of "
            f"'{opened.inverter.adapter.config.backbone}' have {features.shape[1]}: it was found "
            f"in another backbone or layer."
        )
    vector, scale = found.vectors[row], float(found.scales[row])
    region = _region(request, opened, features, found, row)
    strengths = sorted({0.0, *request.strengths})
    maps = torch.cat([steer(features, vector, level * scale, region) for level in strengths])
    drawn = draw(request, opened, maps)
    save_strip(request, opened, opened.images[:1], [f"{level:+g}" for level in strengths], drawn)
    seen = opened.inverter.features(drawn.flatten(0, 1)).cpu().unflatten(0, drawn.shape[:2])
    before = seen[strengths.index(0.0)]
    rows = [
        {"strength": level, **_effects(before, after, edited - features, region)}
        for level, after, edited in zip(strengths, seen, maps, strict=True)
        if level
    ]
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))
    print(f"{request.out}: the original, then {request.concept} by strength")


def save_strip(
    request: Request, opened: Opened, originals: Tensor, titles: list[str], drawn: Tensor
) -> None:
    """Write a row a sample: the originals (N, 3, S, S), then what was drawn (M, K, 3, S, S)."""
    heads = ["original", "other"]
    strips = [
        (
            f"sample {number + 1}",
            [
                *((head, rgb(image)) for head, image in zip(heads, originals, strict=False)),
                *((title, rgb(image)) for title, image in zip(titles, column, strict=True)),
            ],
        )
        for number, column in enumerate(drawn.transpose(0, 1))
    ]
    figure = plot_edit_examples({opened.inverter.adapter.config.backbone: strips})
    with atomic(request.out) as temporary:
        temporary.write_bytes(render(figure, request.out.suffix[1:].lower()))


def read_mask(path: Path, size: int, grid: tuple[int, int]) -> Tensor:
    """Where an image of `size` pixels a side is white, bool (1, h, w); raises `SacdError`."""
    from PIL import Image

    data = read_file(path)
    pixels = square(path, data, size)
    with Image.open(path) as image:
        if image.size != (size, size):
            raise SacdError(
                f"--mask {path}: is {image.width}x{image.height} px, but images here are "
                f"{size}x{size}."
            )
    white = pixels.float().mean(0) > 127
    if not white.any():
        raise SacdError(f"--mask {path}: nothing in it is white.")
    return object_region(white[None], grid)


def _directions(request: SteerRequest, opened: Opened) -> Directions:
    """The file that has the concept; raises `SacdError` with all concepts there are."""
    if request.concepts is not None:
        return Directions.load(request.concepts)
    backbone = opened.inverter.adapter.config.backbone
    experiment = experiment_of(request.adapter)
    folder = (experiment / concept_folder(backbone, "any")).parent
    sets = {path: Directions.load(path) for path in sorted(folder.glob("*/directions.safetensors"))}
    having = {path: found for path, found in sets.items() if request.concept in found.names}
    if len(having) == 1:
        ((path, directions),) = having.items()
        require_made_of(path.parent, experiment)
        return directions
    if having:
        raise SacdError(
            f"several sets of concepts have a '{request.concept}'; say which by --concepts: "
            f"{', '.join(map(str, having))}."
        )
    if not sets:
        raise SacdError(
            f"{folder}: no concepts here. Name some in compare.concepts of params.yaml and run the "
            f"experiment, or give --concepts FILE, as `sacd learn` makes it."
        )
    raise unknown_name(
        "concept", request.concept, [name for found in sets.values() for name in found.names]
    )


def _region(
    request: SteerRequest, opened: Opened, features: Tensor, found: Directions, row: int
) -> Tensor:
    """bool (1, h, w)."""
    grid = (features.shape[-2], features.shape[-1])
    if request.mask is not None:
        return read_mask(request.mask, opened.inverter.image_size, grid)
    if request.where == "image":
        return torch.ones(1, *grid, dtype=torch.bool)
    return active_region(features, found, row)


def _effects(before: Tensor, after: Tensor, asked: Tensor, region: Tensor) -> dict[str, float]:
    """Means over samples (K, C, h, w) of what an edit (1, C, h, w) did."""
    asked, region = asked.expand_as(after), region.expand(len(after), -1, -1)
    effects = {"efficacy": efficacy(before, after, asked, region)}
    effects |= off_target(before, after, asked, region)
    return {name: float(values.mean()) for name, values in effects.items()}
