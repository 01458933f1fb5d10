"""Digests by which files are known again: none is used that was damaged, or swapped for another.

A program's record (`record.json` in a folder, `NAME.record.json` beside a file) holds the digests
of the files that it stands for (`sha256`), and of those that they were made of (`made_of`).
"""

import hashlib
from functools import cache
from pathlib import Path

from sacd.errors import SacdError
from sacd.files import read_json

RECORD = "record.json"
KINDS = (".safetensors", ".parquet")


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's content, computed once a process while size and time stay."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(record: Path) -> dict[str, str]:
    """What `record` says of the files that it stands for, by their paths from its folder.

    Shards are left out: their index has their digests.
    """
    folder = record.parent
    if record.name == RECORD:
        files = [path for path in folder.rglob("*") if path.suffix in KINDS]
    else:
        files = [record.with_name(record.name.removesuffix(f".{RECORD}") + kind) for kind in KINDS]
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(files)
        if path.is_file() and not (path.parent / "index.json").exists()
    }


def require_intact(path: Path) -> None:
    """Raise `SacdError` if a file is not the one that its record was written of.

    Files without a record, or of one that holds no digests, are taken as they are.
    """
    for record in (
        path.parent / RECORD, path.parent.parent / RECORD, path.with_suffix(f".{RECORD}")
    ):  # fmt: skip
        known = read_json(record).get("sha256", {}) if record.is_file() else {}
        name = path.relative_to(record.parent).as_posix()
        if name in known and file_sha256(path) != known[name]:
            raise SacdError(
                f"{path}: is not what {record} was written of (damaged, or replaced by another "
                f"file); delete it and make it again."
            )


def require_made_of(folder: Path, root: Path) -> None:
    """Raise `SacdError` if what lies in `folder` was made of other files than the experiment has.

    `root` is the experiment's folder.
    """
    record = folder / RECORD
    made_of = read_json(record).get("made_of", {}) if record.is_file() else {}
    for name, known in made_of.items():
        path = root / name
        if path.is_file() and file_sha256(path) != known:
            raise SacdError(
                f"{folder}: was made with another {path} than lies there now; make it again, or "
                f"bring the other one back."
            )
