"""Run an experiment's jobs by the code of one tree or another, and see what they write and execute.

    python workflow/replay.py TREE FOLDER LINES < jobs.json

runs jobs (lists of arguments, `stages.NAME --option value ...`) in FOLDER, each in a fork of one
process that has imported the libraries, and writes to LINES which lines of the tree each stage ran.
"""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from source import OURS  # of this folder

LIBRARIES = ("diffusers", "lpips", "matplotlib.pyplot", "pandas", "sklearn", "timm", "torchmetrics")
# What no two runs share.
ASIDE = {
    "wall_seconds", "peak_memory_mb", "revision", "training_seconds", "seconds", "version",
    "seconds_per_image",
}  # fmt: skip

LOG = Path(".log")  # what a job prints

Lines = dict[str, set[int]]  # by file


@dataclass(frozen=True)
class Job:
    """A program with its arguments, and what it writes."""

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def stage(self) -> str:
        """The name of its rule."""
        return self.arguments[0].removeprefix("stages.")


def jobs_of(tree: Path, folder: Path) -> list[Job]:
    """An experiment's jobs by Snakemake's plan, in an order in which they can run."""
    done = subprocess.run(
        ["snakemake", "--dry-run", "--forceall", "--printshellcmds", "--cores", "1",
         "--snakefile", str(tree / "Snakefile"), "--directory", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"error: {tree}: Snakemake cannot plan the fixture:\n{done.stdout}{done.stderr}")
    jobs, waiting = [], []
    known: set[str] = set()
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", done.stdout + done.stderr)[1:]:
        if command := re.search(r"launch \S+ \S+ (stages\.\S+.*?) 2>&1", block):
            job = Job(tuple(command[1].split()), _listed("output", block))
            waiting.append((job, {*_listed("input", block)}))
    made = {path for job, _ in waiting for path in job.outputs}
    while waiting:  # Snakemake lists them by depth, but for what is ready
        ready = [job for job, needs in waiting if needs & made <= known]
        known |= {path for job in ready for path in job.outputs}
        jobs += ready
        waiting = [(job, needs) for job, needs in waiting if job not in ready]
    return jobs


def _listed(what: str, block: str) -> tuple[str, ...]:
    found = re.search(rf"^ +{what}: (.+)$", block, re.MULTILINE)
    return tuple(found[1].split(", ")) if found else ()


def replay(tree: Path, folder: Path, jobs: list[Job]) -> Lines:
    """Run jobs by the code of `tree`; the lines of it that they executed."""
    lines = folder / ".lines.json"
    done = subprocess.run(
        [sys.executable, __file__, str(tree), str(folder), str(lines)],
        input=json.dumps([job.arguments for job in jobs]), text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"error: {tree}: a job of the fixture failed (see above)")
    found = {path: set(numbers) for path, numbers in json.loads(lines.read_text()).items()}
    lines.unlink()
    return found


def union(runs: Iterable[Lines]) -> Lines:
    """The lines that any of the runs executed."""
    found: Lines = defaultdict(set)
    for lines in runs:
        for path, numbers in lines.items():
            found[path] |= numbers
    return found


def redo(tree: Path, reference: Path, jobs: list[Job], where: Path) -> tuple[Lines, list[str]]:
    """Run one stage's jobs on what the reference gives them: lines, and outputs that differ."""
    shutil.copytree(reference, where, copy_function=os.link)
    shutil.copy(tree / "tests/fixture/params.yaml", where / "params.yaml.new")
    os.replace(where / "params.yaml.new", where / "params.yaml")
    for job in jobs:
        for path in job.outputs:
            (where / path).unlink(missing_ok=True)
    lines = replay(tree, where, jobs)
    outputs = [path for job in jobs for path in job.outputs]
    return lines, [path for path in outputs if _content(where / path) != _content(reference / path)]


def _content(path: Path) -> Any:
    """A file's bytes; of JSON the value, without what no two runs share."""
    if not path.exists():
        return None
    return _timeless(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in ASIDE}
    return value


def main() -> None:
    tree, folder, lines = (Path(argument).resolve() for argument in sys.argv[1:])
    for library in LIBRARIES:
        import_module(library)
    os.chdir(folder)
    sys.path[0] = str(tree)
    executed: dict[str, set[int]] = defaultdict(set)
    for arguments in json.load(sys.stdin):
        told, telling = os.pipe()
        if child := os.fork():
            os.close(telling)
            with os.fdopen(told) as pipe:
                text = pipe.read()
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{LOG.read_text()}{' '.join(arguments)}: failed")
            for path, numbers in json.loads(text).items():
                executed[path] |= set(numbers)
        else:
            os.close(told)
            _run(tree, arguments, telling)
    lines.write_text(json.dumps({path: sorted(numbers) for path, numbers in executed.items()}))


def _run(tree: Path, arguments: list[str], telling: int) -> None:
    """Become a stage's program; in the end write the lines that it ran to a pipe, and exit."""
    executed: dict[str, set[int]] = defaultdict(set)
    ours = tuple(f"{tree / name}{os.sep}" for name in OURS)

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        executed[frame.f_code.co_filename].add(frame.f_lineno)
        return note

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return note(frame, event, argument) if frame.f_code.co_filename.startswith(ours) else None

    sys.argv = arguments
    threading.settrace(trace)
    sys.settrace(trace)
    status = 1
    try:
        with LOG.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        status = int(bool(stop.code))
    finally:
        sys.settrace(None)
        found = {os.path.relpath(path, tree): [*numbers] for path, numbers in executed.items()}
        with os.fdopen(telling, "w") as pipe:
            json.dump(found, pipe)
        os._exit(status)


if __name__ == "__main__":
    main()
