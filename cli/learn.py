"""Learn a concept from a folder of images with it and a folder of images without it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cli.one_image import read_file
from pipeline.program import device, progress
from sacd.concepts.directions import Directions, activation_vector, locations
from sacd.errors import SacdError
from sacd.images.collection import Unusable, load_square
from sacd.sampling.inverter import Inverter

BATCH = 32
LOCATIONS = 8192  # channel vectors on which a direction is measured, at most


@dataclass(frozen=True)
class LearnRequest:
    """A concept's `name`, images with it and without it, and the adapter whose backbone looks."""

    name: str
    positive: Path
    negative: Path
    adapter: Path
    out: Path
    seed: int


def learn(request: LearnRequest) -> None:
    """Write a file of one concept to `request.out`; print how well it tells the two folders."""
    if request.out.suffix != ".safetensors":
        raise SacdError(f"--out {request.out}: must end in .safetensors.")
    folders = (request.positive, request.negative)
    files = [_files(folder) for folder in folders]
    inverter = Inverter.from_pretrained(request.adapter, device=str(device()))
    kept = [
        _features(inverter, paths, folder) for paths, folder in zip(files, folders, strict=True)
    ]
    features = torch.cat(kept)
    positive = torch.arange(len(features)) < len(kept[0])
    vector, scale, accuracy = activation_vector(
        features.mean((2, 3)), positive, "pattern", request.seed
    )
    values = locations(features, LOCATIONS, request.seed)
    found = Directions.measured([request.name], vector[None], values, torch.tensor([scale]))
    found.save(request.out)
    print(f"{len(kept[0])} images with '{request.name}', {len(kept[1])} without")
    print(f"told right on images it was not learnt from: {accuracy:.2f} (0.5 is chance)")
    print(f"{request.out}: the concept '{request.name}'")


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise SacdError(f"{folder}: cannot be read as a folder ({error.strerror}).") from error


def _features(inverter: Inverter, paths: list[Path], folder: Path) -> Tensor:
    """Features (N, C, h, w) of a folder's images; what is no image is listed and left out."""
    squares = []
    for path in paths:
        try:
            pixels, _, _ = load_square(read_file(path), inverter.image_size)
        except Unusable as reason:
            print(f"{path}: left out ({reason})")
            continue
        squares.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    if not squares:
        raise SacdError(f"{folder}: no usable images in it.")
    blocks = torch.stack(squares).split(BATCH)
    numbers = progress(f"features of {folder.name}")(iter(range(len(blocks))), len(blocks))
    return torch.cat([inverter.features(blocks[number]).cpu() for number in numbers])
