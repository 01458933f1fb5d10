"""What the `sacd` command is asked for, and the drawing that its answers have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sacd.errors import SacdError
from sacd.figures.mosaic import mosaic
from sacd.files import atomic
from sacd.images.collection import Unusable, load_square
from sacd.sampling.inverter import Inverter
from stages.common import device
from stages.sections import AdapterMethod
from stages.settings import PARAMS, load_settings


@dataclass(frozen=True)
class Request:
    """The command's arguments; `steps` and `guidance`, where None, are the experiment's."""

    image: Path
    adapter: Path
    samples: int
    out: Path
    seed: int
    steps: int | None
    guidance: float | None


@dataclass(frozen=True)
class Drawn:
    """An image as the inverter wants it, uint8 (3, S, S), and `samples` (K, 3, S, S) from it.

    `drawing` are the arguments of `Inverter.sample` that were used.
    """

    inverter: Inverter
    original: Tensor
    samples: Tensor
    drawing: dict[str, Any]


def draw(request: Request) -> Drawn:
    """Samples from the features of the square in the image's middle; raises `SacdError`."""
    if request.steps is not None and request.steps < 1:
        raise SacdError("--steps must be at least 1.")
    try:
        data = request.image.read_bytes()  # first, because loading an inverter takes seconds
    except OSError as error:
        raise SacdError(f"{request.image}: cannot be read ({error.strerror}).") from error
    inverter = Inverter.from_pretrained(request.adapter, device=str(device()))
    try:
        pixels, _, _ = load_square(data, inverter.image_size)
    except Unusable as reason:
        raise SacdError(f"{request.image}: {reason}.") from reason
    original = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    drawing = how_to_draw(request.adapter, request.steps, request.guidance)
    samples = inverter.invert(
        original[None], request.samples, request.seed, ids=[request.image.name], **drawing
    )[0]
    return Drawn(inverter, original, samples, drawing)


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


def image_format(out: Path) -> str:
    """Pillow's format for a file to be written, by its name; raises `SacdError`."""
    found = Image.registered_extensions().get(out.suffix.lower())
    if found not in Image.SAVE:
        raise SacdError(f"--out {out}: unknown image type '{out.suffix}'; name it .png, say.")
    return found


def save_mosaic(images: Tensor, columns: int, out: Path) -> None:
    """Write uint8 images (N, 3, S, S), `columns` of them in a row, on white."""
    with atomic(out) as temporary:
        Image.fromarray(mosaic(images, columns)).save(temporary, format=image_format(out))
