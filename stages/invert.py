"""Invert one image and save original and samples side by side."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sacd.errors import SacdError
from sacd.files import atomic
from sacd.images.collection import Unusable, load_square
from sacd.metrics.features import feature_scores
from sacd.sampling.inverter import Inverter
from stages.common import device
from stages.sections import AdapterMethod
from stages.settings import PARAMS, load_settings

GAP = 4  # white pixels between pictures


def invert(
    image: Path,
    adapter: Path,
    samples: int,
    out: Path,
    seed: int,
    steps: int | None,
    guidance: float | None,
) -> None:
    """Write `out` (by its extension) and print the feature cosine of every sample.

    `steps` and `guidance`, where not given, are those of the experiment's method.
    """
    if samples < 1 or (steps is not None and steps < 1):
        raise SacdError("--samples and --steps must be at least 1.")
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise SacdError(f"--out {out}: unknown image type '{out.suffix}'; name it .png, say.")
    inverter, original = open_both(adapter, image)
    drawing = how_to_draw(adapter, steps, guidance)
    drawn = inverter.invert(original[None], samples, seed, ids=[image.name], **drawing)[0]
    _save_row(torch.cat([original[None], drawn]), out)
    truth = inverter.features(original[None]).cpu()
    scores = feature_scores(inverter.features(drawn).cpu(), truth.expand(samples, -1, -1, -1))
    for number, cosine in enumerate(scores["cos_median"].tolist()):
        print(f"sample {number + 1}: cos_median {cosine:.3f}")
    print(f"{out}: the original, then {samples} samples")


def open_both(adapter: Path, image: Path) -> tuple[Inverter, torch.Tensor]:
    """The inverter, and the square from the image's middle as it wants it: uint8 (3, S, S)."""
    try:
        data = image.read_bytes()  # first, because loading an inverter takes seconds
    except OSError as error:
        raise SacdError(f"{image}: cannot be read ({error.strerror}).") from error
    inverter = Inverter.from_pretrained(adapter, device=str(device()))
    try:
        pixels, _, _ = load_square(data, inverter.image_size)
    except Unusable as reason:
        raise SacdError(f"{image}: {reason}.") from reason
    return inverter, torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def how_to_draw(adapter: Path, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Arguments of `Inverter.invert`: what is given, else as the experiment's first method has it
    that draws with this adapter; without such a method, the library's own defaults."""
    place = adapter.resolve()
    params = place.parents[2] / PARAMS
    methods = load_settings(params).methods.values() if params.exists() else ()
    values: dict[str, Any] = {}
    for method in methods:
        if not isinstance(method, AdapterMethod) or method.features == "null":
            continue
        if method.adapter == place.name:
            values = method.model_dump(include={"steps", "guidance", "guided_below"})
            break
    given = {"steps": steps, "guidance": guidance}
    return values | {key: value for key, value in given.items() if value is not None}


def _save_row(images: torch.Tensor, out: Path) -> None:
    """uint8 images (N, 3, S, S) in a row on white."""
    size = images.shape[-1]
    row = np.full((size, len(images) * (size + GAP) - GAP, 3), 255, np.uint8)
    for number, picture in enumerate(images.permute(0, 2, 3, 1).numpy()):
        left = number * (size + GAP)
        row[:, left : left + size] = picture
    with atomic(out) as temporary:
        Image.fromarray(row).save(
            temporary, format=Image.registered_extensions()[out.suffix.lower()]
        )
