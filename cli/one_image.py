"""What the `sacd` command is asked for, and the drawing that its answers have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pipeline.program import device
from pipeline.settings.load import PARAMS, load_settings
from pipeline.settings.methods import AdapterMethod
from sacd.errors import SacdError
from sacd.figures.mosaic import mosaic
from sacd.files import atomic
from sacd.images.collection import Unusable, load_square
from sacd.sampling.inverter import Inverter, experiment_of


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
class Opened:
    """What answers a request: the inverter, and images as it wants them, uint8 (N, 3, S, S).

    `drawing` are those of `Inverter.sample`.
    """

    inverter: Inverter
    images: Tensor
    drawing: dict[str, Any]


def open_request(request: Request, *more: Path) -> Opened:
    """The squares in the middle of the request's image and of `more`; raises `SacdError`."""
    if request.samples < 1:
        raise SacdError("--samples must be at least 1.")
    if request.steps is not None and request.steps < 1:
        raise SacdError("--steps must be at least 1.")
    if request.guidance is not None and request.guidance < 0:
        raise SacdError("--guidance must not be less than 0.")
    files = [(path, read_file(path)) for path in (request.image, *more)]
    inverter = Inverter.from_pretrained(request.adapter, device=str(device()))
    squares = [square(path, data, inverter.image_size) for path, data in files]
    drawing = how_to_draw(request.adapter, request.steps, request.guidance)
    return Opened(inverter, torch.stack(squares), drawing)


def read_file(path: Path) -> bytes:
    """A file's content; read before an inverter is loaded, which takes seconds."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SacdError(f"{path}: cannot be read ({error.strerror}).") from error


def square(path: Path, data: bytes, size: int) -> Tensor:
    """The square in an image's middle, uint8 (3, size, size)."""
    try:
        pixels, _, _ = load_square(data, size)
    except Unusable as reason:
        raise SacdError(f"{path}: {reason}.") from reason
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def draw(request: Request, opened: Opened, maps: Tensor) -> Tensor:
    """Samples uint8 (M, K, 3, S, S) from maps (M, C, h, w), with the same noise for each map."""
    keys = [(request.image.name, number) for number in range(request.samples)]
    drawn = [
        opened.inverter.sample(
            features[None].expand(len(keys), -1, -1, -1), keys, request.seed, **opened.drawing
        )
        for features in maps
    ]
    return torch.stack(drawn)


def how_to_draw(adapter: Path, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Drawing for `Inverter.sample`: what is given, else as the experiment's first method has it
    that draws with this adapter; without such a method, the library's own defaults."""
    params = experiment_of(adapter) / PARAMS
    methods = load_settings(params).methods.values() if params.exists() else ()
    values: dict[str, Any] = {}
    for method in methods:
        if not isinstance(method, AdapterMethod) or method.features == "null":
            continue
        if method.adapter == adapter.resolve().name:
            values = method.drawing
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


def require_kind(out: Path, kinds: tuple[str, ...]) -> None:
    """Raise `SacdError` if a file to be written is of another kind."""
    if out.suffix.lower() not in kinds:
        raise SacdError(f"--out {out}: must end in {', '.join(kinds)}.")
