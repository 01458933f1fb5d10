"""Where unfinished work lies until a program has finished, so that an interrupted one goes on."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pipeline.versions import version_of
from sacd.errors import SacdError
from sacd.files import digest

WORK = Path(".work")

_in_use: list[Path] = []  # by this process


def work_folder(stage: str, *determining: Any) -> Path:
    """Where unfinished work of a stage lies: named by everything that determines its result.

    Interrupted work is taken up only by a run with the same parameters and inputs, and by code of
    the same version: what was refactored meanwhile goes on.
    """
    folder = WORK / f"{stage}-{digest([stage, version_of(stage), *determining])[:16]}"
    _in_use.append(folder)
    return folder


def content(path: Path) -> str:
    """A short digest of a file that stands for a finished input (an index, a configuration)."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except FileNotFoundError as error:
        raise SacdError(f"{path}: no such file; run the step that makes it.") from error


def clear_work_folders() -> None:
    """Remove the work folders of this process: its result stands."""
    for folder in _in_use:
        shutil.rmtree(folder, ignore_errors=True)
