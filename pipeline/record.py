"""What stands beside every result: parameters, versions, machine and cost of the run behind it."""

import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.artefacts import ROOT
from pipeline.program import compiling, device
from pipeline.settings.sections import Settings
from pipeline.versions import parts, version_of
from pipeline.work_folder import clear_work_folders
from sacd import parallel
from sacd.files import read_json, write_json
from sacd.provenance import digests_of, file_sha256

OURS = ("sacd", "pipeline", "stages", "cli")
PACKAGES = ("torch", "diffusers", "timm", "numpy", "pandas")


class Recorder:
    """Times a job from here on; at its end writes its record and clears its work folders.

    `names` are what the job is named by: Recorder("train_adapter", backbone=..., adapter=...).
    """

    def __init__(self, stage: str, **names: str) -> None:
        self._stage, self._names = stage, names
        self._started = time.monotonic()

    def write(
        self,
        path: Path,
        settings: Settings | None = None,
        made_of: Sequence[Path] = (),
        **more: Any,
    ) -> None:
        """Write parameters, versions, digests, revision, machine and seconds beside a result.

        `made_of` are files that the result goes with alone, such as the prior of an adapter. Of
        several processes the first one writes.
        """
        if not parallel.first():
            return
        write_json(
            path,
            {
                "stage": self._stage,
                "version": version_of(self._stage),
                "parameters": parts(self._stage, settings, **self._names) if settings else {},
                "sha256": digests_of(path),
                "made_of": {file.as_posix(): file_sha256(file) for file in made_of},
                "packages": {name: version(name) for name in PACKAGES},
                "python": platform.python_version(),
                "revision": _revision(),
                "device": device_name(),
                "compiling": compiling(),
                "processes": parallel.count(),
                "wall_seconds": round(time.monotonic() - self._started, 2),
                "peak_memory_mb": _peak_memory_mb(),
                **more,
            },
        )
        clear_work_folders()


def _revision() -> str:
    """Commit of the code, with `-dirty` if the code was edited since."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        edited = _git(
            "status", "--porcelain", "--untracked-files=no", "--", "sacd", "pipeline", "stages"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if edited else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    from sacd.numerics import multiplies_bf16

    kind = platform.machine() + (" CPU" if multiplies_bf16(device()) else " CPU without bf16")
    return f"{kind}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _peak_memory_mb() -> float:
    """The most memory that this process held: the GPU's where it used one, else its own."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1)


def read_record(folder: Path) -> dict[str, Any]:
    """The record a stage left in `folder`."""
    return read_json(folder / "record.json")
