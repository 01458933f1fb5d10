"""Atomic writes and digests: what is on disk is complete or absent."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sacd.errors import SacdError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it there if the block succeeds.

    Works for files and for folders: an existing folder is replaced, and of a link to one that which
    it leads to. If the block fails, the temporary is removed and whatever was at `path` stays.
    """
    path = path.resolve() if path.is_dir() else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for file in (temporary, *temporary.rglob("*")):
            if file.is_file():
                file.chmod(0o644)  # safetensors makes files that only their owner can read
        if temporary.is_dir() and path.exists():
            # Moved away as a whole and then deleted: a kill leaves no half of it at `path`.
            os.replace(path, replaced)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SacdError(f"{path}: could not be written ({reason}).") from error
    finally:
        if replaced.exists() and not path.exists():  # stopped between the two renames
            os.replace(replaced, path)
        shutil.rmtree(replaced, ignore_errors=True)
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Where the block cannot read the file `path`, missing or broken, a `SacdError` names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise SacdError(f"{path}: no such file; run the step that makes it.") from error
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: JSON, csv and parquet
        raise SacdError(
            f"{path}: cannot be read ({error}); delete it and make it again."
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a `SacdError` that names it."""
    with readable(path):
        return json.loads(path.read_text())


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON-serialisable value; dictionaries count as unordered."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
