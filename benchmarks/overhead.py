"""What orchestration costs: the share of a finished run's time that was not a stage's own work.

    python benchmarks/overhead.py [EXPERIMENT] [--name cpu_of_two_cores]

From what the run left: Snakemake's benchmark files (a job's shell command, start to end), the
records of stages (from the end of their imports to the end of their work), and Snakemake's own
notes (first start and last end). And measured anew: Snakemake's reading of the workflow, imports
of a stage, and `sacd --help`. Writes benchmarks/overhead/NAME.csv.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from harness import add_experiment, arguments_of, publish

from sacd.files import read_json
from stages.code import ROOT

TRIES = 3


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    arguments = parser.parse_args()
    folder = arguments.experiment
    jobs, work, elapsed = seconds_of_run(folder)
    snakemake = ["snakemake", "--dry-run", "--quiet", "--directory", str(folder)]
    table = pd.DataFrame(
        [
            ("seconds from the first job's start to the last one's end", elapsed),
            ("seconds of jobs, summed", jobs),
            ("seconds of stages' own work, summed", work),
            ("share of jobs' seconds that is start-up", 1 - work / jobs),
            ("seconds to read the workflow", seconds_of(snakemake)),
            ("seconds to import train_adapter", seconds_of(importing("stages.train_adapter"))),
            ("seconds to import make_tables", seconds_of(importing("stages.make_tables"))),
            ("seconds of sacd --help", seconds_of([sys.executable, "-m", "stages.cli", "--help"])),
        ],
        columns=["what", "value"],
    )
    publish(table, str(folder), "overhead", arguments.name)


def seconds_of_run(folder: Path) -> tuple[float, float, float]:
    """Of a finished run: of all jobs, of their stages' own work, and from start to end."""
    jobs = sum(
        pd.read_csv(path, sep="\t").s.sum() for path in (folder / "logs").rglob("*.benchmark.tsv")
    )
    records = {*folder.rglob("record.json"), *folder.rglob("*.record.json")}
    kept = [path for path in records if not {"pretrained", "experiments"} & {*path.parts}]
    work = sum(read_json(path).get("wall_seconds", 0.0) for path in kept)
    notes = [json.loads(path.read_text()) for path in (folder / ".snakemake/metadata").iterdir()]
    times = [(note["starttime"], note["endtime"]) for note in notes if note.get("starttime")]
    return jobs, work, max(end for _, end in times) - min(start for start, _ in times)


def importing(module: str) -> list[str]:
    return [sys.executable, "-c", f"import {module}"]


def seconds_of(command: list[str]) -> float:
    """Wall seconds, the fastest of some tries."""
    fastest = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


if __name__ == "__main__":
    main()
