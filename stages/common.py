"""What every stage shares: its frame, its place for unfinished work, and its record."""

import io
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sacd import parallel
from sacd.errors import SacdError
from sacd.files import digest, read_json, write_json
from sacd.stopping import Stopped, raise_when_asked
from stages.code import code_version

WORK = Path(".work")
PACKAGES = ("torch", "diffusers", "timm", "numpy", "pandas")


def run(main: Callable[[], None]) -> None:
    """Run a stage; a `SacdError` becomes one message on stderr and exit status 1.

    Asked to stop (SIGTERM, or SIGUSR1 ahead of a job's wall time), it ends in order, and the same
    command goes on from there.
    """
    raise_when_asked()
    try:
        main()
    except SacdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run it again: what was finished is kept.", file=sys.stderr)
        sys.exit(130)
    except Stopped as stopped:
        print(f"{stopped}; run it again: what was finished is kept.", file=sys.stderr)
        sys.exit(143)


def progress(label: str) -> Callable[[Iterator[int], int], Iterator[int]]:
    """A tqdm bar as the progress callback of the library's loops, for the first process."""
    from tqdm import tqdm

    if not parallel.first():
        return lambda items, total: items

    def bar(items: Iterator[int], total: int) -> Iterator[int]:
        if sys.stderr.isatty():
            return iter(tqdm(items, total=total, desc=label))
        return iter(tqdm(items, total=total, desc=label, mininterval=10.0, file=_Lines()))

    return bar


class _Lines(io.TextIOBase):
    """Standard error for a log: a line for each redraw of a bar instead of a carriage return."""

    def write(self, text: str) -> int:
        if stripped := text.strip():
            sys.stderr.write(stripped + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


@cache
def device() -> Any:
    """The GPU if there is one, else the CPU.

    Named by its number, for a thread that was started since takes "cuda" for the first.
    """
    import torch

    parallel.join()  # which gives each of several processes a GPU of its own
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def compiling() -> bool:
    """Whether the environment asks for compiled networks, as a machine's matter, no science."""
    return os.environ.get("SACD_COMPILE", "") not in ("", "0")


def work_folder(stage: str, *determining: Any) -> Path:
    """Where unfinished work of a stage lies: named by everything that determines its result.

    Interrupted work is taken up only by a run with the same parameters, code and inputs.
    """
    folder = WORK / f"{stage}-{digest([stage, code_version(f'stages.{stage}'), *determining])[:16]}"
    _in_use.append(folder)
    return folder


def content(path: Path) -> str:
    """A short digest of a file that stands for a finished input (an index, a configuration)."""
    import hashlib

    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except FileNotFoundError as error:
        raise SacdError(f"{path}: no such file; run the step that makes it.") from error


_in_use: list[Path] = []  # work folders of this process


class Clock:
    """Measures a stage's wall time; at the end writes its record and clears its work folders."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def finish(self, path: Path, settings: Any, **more: Any) -> None:
        """Write parameters, versions, code revision, machine and seconds beside a result.

        Of several processes the first one does.
        """
        if not parallel.first():
            return
        write_json(
            path,
            {
                "parameters": settings,
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
        for folder in _in_use:
            shutil.rmtree(folder, ignore_errors=True)


def _revision() -> str:
    """Commit of the code, with `-dirty` if the code was edited since."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        edited = _git("status", "--porcelain", "--untracked-files=no", "--", "sacd", "stages")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if edited else commit


def _git(*arguments: str) -> str:
    root = Path(__file__).parent.parent
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
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
