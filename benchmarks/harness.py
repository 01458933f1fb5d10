"""What the programs in this folder share: their arguments, their clocks, and where tables go."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from pipeline.artefacts import ROOT
from pipeline.program import device
from pipeline.record import device_name

TRIES = 3


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser for a program of this docstring, with the name of the files that it writes."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--name", default="cpu_of_two_cores", help="of the files that are written")
    return parser


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Let the program be told of a finished experiment; the embedded one, if it is not."""
    parser.add_argument("experiment", type=Path, nargs="?", default=ROOT)


def synchronise() -> None:
    """Wait for what a GPU was given to do, before a clock is read."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def elapsed(work: Callable[[], object]) -> float:
    """Wall seconds of one run of a piece of work."""
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of a piece of work, the fastest of `TRIES`."""
    return min(elapsed(work) for _ in range(TRIES))


def publish(table: pd.DataFrame, what: str, kind: str, name: str) -> Path:
    """Print a table, below the device and what was measured; write benchmarks/<kind>/<name>.csv.

    Returns the folder.
    """
    print(f"{device_name()}, {what}\n{table.to_string(index=False)}")
    folder = ROOT / "benchmarks" / kind
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    return folder
