"""Photographs in ImageFolder layout, from a folder, a tar or a zip archive.

The layout is `<class>/<image>`, or `train/<class>/<image>` beside `val/<class>/<image>`, below any
number of outer folders. A folder may also hold ImageNet's official archives.
"""

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sacd.errors import SacdError, unknown_name
from sacd.images.archives import files_in
from sacd.images.imagenet import is_official, open_official

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
SMALLEST = 32  # pixels; below that a photograph shows nothing at any size we use
BROKEN = (
    OSError, EOFError, RuntimeError,  # zipfile's for encrypted files
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


class Unusable(Exception):
    """An image that must be skipped; the message is the reason."""


@dataclass(frozen=True)
class Entry:
    """An image of a collection: its path inside it, and where the layout puts it."""

    path: str
    split: str
    class_name: str


class Collection:
    """A readable collection of images; `entries` are sorted by path.

    `key` is the parameter that names it, for messages.
    """

    def __init__(self, source: Path, key: str = "images.source"):
        self.source = source
        try:
            self._names, self._read = _open_source(source)
        except SacdError as error:
            raise SacdError(f"{key}: {error}") from error
        self.entries = sorted(
            (_entry(name) for name in self._names if _is_image(name)), key=lambda e: e.path
        )
        if not self.entries:
            raise SacdError(
                f"{key}: {source}: no images in ImageFolder layout "
                f"(train/<class>/<image>, val/<class>/<image> or <class>/<image>)."
            )

    def read(self, path: str) -> bytes:
        """The bytes of an image file; raises `Unusable` with the reason."""
        try:
            return self._read(path)
        except BROKEN as error:
            reason = getattr(error, "strerror", None) or error
            raise Unusable(f"unreadable: {reason}") from error

    def choose(
        self, classes: str | int | list[str], per_class: dict[str, int], seed: int
    ) -> dict[str, dict[str, list[Entry]]]:
        """Candidates of each split and class, in a random order fixed by `seed`.

        With `train/` and `val/` folders, test and val images come from `val/`; without them all
        three come from the one set. Test images are taken from the front of a class, val images
        from its back and train images from its middle outwards, so that changing one count does
        not move images between splits while there are enough. A list is the whole pool left for
        its split: take as many as are wanted and usable.
        """
        pools: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            pools[entry.split, entry.class_name].append(entry)
        rng = np.random.default_rng(seed)
        for key in sorted(pools):
            rng.shuffle(pools[key])
        has_folders = any(split == "train" for split, _ in pools)
        chosen: dict[str, dict[str, list[Entry]]] = {"test": {}, "val": {}, "train": {}}
        for name in self._class_names(classes):
            evaluated = pools.get(("val" if has_folders else "", name), [])
            trained = pools.get(("train", name), []) if has_folders else evaluated
            # A tenth more than asked for stays in reserve for unusable files, if there is more.
            wanted = sum(per_class[s] for s in ("test", "val", *([] if has_folders else ["train"])))
            spare = max(0, len(evaluated) - wanted) // 2
            test, val = (
                per_class[s] + min(spare, max(2, per_class[s] // 10)) for s in ("test", "val")
            )
            rest = evaluated[test:]
            chosen["test"][name] = evaluated[:test]
            chosen["val"][name] = rest[::-1][:val]
            if not has_folders:
                middle = range(test, max(test, len(evaluated) - val))
                order = sorted(middle, key=lambda row: abs(2 * row - len(evaluated)))
                trained = [evaluated[row] for row in order]
            chosen["train"][name] = trained
        return chosen

    def _class_names(self, classes: str | int | list[str]) -> list[str]:
        known = sorted({entry.class_name for entry in self.entries})
        if classes == "all":
            return known
        if isinstance(classes, int):
            if classes > len(known):
                raise SacdError(
                    f"images.classes: {classes} asked for, {self.source} has {len(known)}."
                )
            return known[:classes]
        for name in classes:
            if name not in known:
                raise unknown_name("class", name, known, "images.classes")
        return sorted(classes)


def load_square(data: bytes, size: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, ...]]:
    """Decode, turn upright as EXIF says, crop the central square, resize to `size` pixels.

    Returns pixels uint8 (size, size, 3), the original (width, height) and the crop box (left, top,
    right, bottom). Gray and palette images become RGB. Raises `Unusable` with the reason.
    """
    try:
        with Image.open(BytesIO(data)) as stored:
            width, height = stored.size
            if min(width, height) < SMALLEST:
                raise Unusable(f"too small: {width}x{height} px, needs {SMALLEST}")
            ImageOps.exif_transpose(stored, in_place=True)
            width, height = stored.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            square = stored.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box)
            return np.asarray(square), (width, height), box
    except UnidentifiedImageError as error:  # its message holds an address, new in every run
        raise Unusable("unreadable: not an image file") from error
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, struct.error) as error:
        raise Unusable(f"unreadable: {error}") from error


def _open_source(source: Path) -> tuple[list[str], Callable[[str], bytes]]:
    if is_official(source):
        return open_official(source)
    if source.is_dir():
        return _files_below(source), lambda name: (source / name).read_bytes()
    if not source.exists():
        raise SacdError(f"{source}: no such folder or archive.")
    try:
        if zipfile.is_zipfile(source):
            pack = zipfile.ZipFile(source)  # may be read by several threads
            return pack.namelist(), pack.read
        archive = tarfile.open(source)  # noqa: SIM115 (stays open for `read`)
        members = {member.name: member for member in files_in(archive, source)}
    except BROKEN as error:
        raise SacdError(f"{source}: not a folder, tar or zip ({error}).") from error

    lock = Lock()  # a tar has one place at which it is read

    def read(name: str) -> bytes:
        file = archive.extractfile(members[name])
        assert file is not None  # only regular files are members
        with lock:
            return file.read()

    return list(members), read


def _files_below(source: Path) -> list[str]:
    """Paths of all files in a folder; an empty folder is an error, for it is an empty class."""
    names = []
    for folder, folders, files in os.walk(source, followlinks=True):
        if folder != str(source) and not folders and not files:
            raise SacdError(f"class '{Path(folder).name}' is empty ({folder}).")
        names += [(Path(folder) / file).relative_to(source).as_posix() for file in files]
    return names


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in EXTENSIONS and len(path.parts) >= 2


def _entry(name: str) -> Entry:
    parts = PurePosixPath(name).parts
    split = parts[-3] if len(parts) >= 3 and parts[-3] in ("train", "val") else ""
    return Entry(name, split, parts[-2])
