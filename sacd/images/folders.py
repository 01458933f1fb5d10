"""The files below a folder, each once, wherever links lead."""

import os
import stat
from collections import deque
from functools import lru_cache
from pathlib import Path, PurePosixPath

from sacd.errors import SacdError
from sacd.images.archives import Files, require_small
from sacd.images.decoding import Unusable

SIDE = {
    "__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", "Thumbs.db", "desktop.ini", "Icon\r",
}  # fmt: skip


def is_side(name: str) -> bool:
    """Whether a system put a file or folder there for itself: hidden ones and those in `SIDE`."""
    return name in SIDE or (name.startswith(".") and name not in (".", ".."))


def in_side_folder(name: str) -> bool:
    """Whether a path leads to or through a file or folder of `is_side`."""
    folder, _, file = name.rstrip("/").rpartition("/")
    return is_side(file) or any(map(is_side, parts(folder)))


@lru_cache(maxsize=1024)  # a folder holds a thousand images, and parsing its path takes a while
def parts(folder: str) -> tuple[str, ...]:
    """The folders that a path with slashes leads through."""
    return PurePosixPath(folder).parts


def open_folder(source: Path) -> Files:
    """All files below a folder; a file or folder that links lead to twice is left out once.

    What is there itself goes before what a link leads to. Raises `SacdError` for a folder that
    cannot be read and for an empty one, for it is an empty class.
    """
    names: list[str] = []
    left_out: dict[str, str] = {}
    real_source = os.path.realpath(source)
    seen = {real_source: "this folder"}  # real path -> the name it is read by
    links: deque[tuple[str, str]] = deque()
    _walk("", real_source, names, links, seen)
    while links:
        name, real = links.popleft()
        if real in seen or _holds(real, real_source):
            slash = "/" if os.path.isdir(real) else ""
            left_out[name + slash] = f"a link to {seen.get(real, 'a folder around this one')}"
            continue
        seen[real] = name
        if os.path.isdir(real):
            _walk(name + "/", real, names, links, seen)
        else:  # also a link to nothing: reading it will say so
            names.append(name)
    return Files(names, lambda name: _read(source / name), left_out)


def _walk(
    prefix: str, real: str, names: list[str], links: deque[tuple[str, str]], seen: dict[str, str]
) -> None:
    """Add the files below the folder `real` under `prefix`, and its links for a later look."""
    pending = [(prefix, real)]
    while pending:
        prefix, folder = pending.pop()
        try:
            with os.scandir(folder) as found:
                content = sorted((e for e in found if not is_side(e.name)), key=lambda e: e.name)
        except OSError as error:
            raise SacdError(f"{folder}: cannot be read ({error.strerror}).") from error
        if prefix and not content:
            raise SacdError(f"class '{Path(folder).name}' is empty ({folder}).")
        for entry in content:
            if entry.is_symlink():
                links.append((prefix + entry.name, os.path.realpath(entry.path)))
            elif entry.path not in seen:  # a link outside led to a folder around one we know
                seen[entry.path] = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append((f"{prefix}{entry.name}/", entry.path))
                else:
                    names.append(prefix + entry.name)


def _holds(folder: str, inner: str) -> bool:
    return inner.startswith(folder.rstrip("/") + "/")


def _read(path: Path) -> bytes:
    """The bytes of a regular file; opening anything else must not wait for its other end."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("no regular file")
        require_small(status.st_size)
        return file.read()
