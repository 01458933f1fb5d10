"""What orchestration costs: the share of a finished run's time that was not a stage's own work.

And what scoring costs, of the same time.

    python benchmarks/overhead.py [EXPERIMENT] [--name cpu_of_two_cores]

From what the run left: Snakemake's benchmark files (a job's shell command, start to end), the
records of stages (from the end of their imports to the end of their work), and Snakemake's own
notes (first start and last end). And measured anew: the start of workflow/fork_server.py, below
which `make demo` runs, Snakemake's reading of the workflow, imports of a stage, and `sacd --help`.
Writes benchmarks/overhead/NAME.csv.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from harness import add_experiment, arguments_of, publish, seconds_of

from pipeline.artefacts import ROOT
from sacd.files import read_json
from workflow.show_results import seconds_of_rules

OTHER_RUNS = ("pretrained", "experiments")  # folders of the root that other runs made


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    arguments = parser.parse_args()
    folder = arguments.experiment
    rules = seconds_of_rules(folder / "logs")
    jobs, scoring = sum(rules.values()), rules["score_samples"] + rules["score_references"]
    work, elapsed = seconds_of_run(folder)
    benchmarks = list(folder.glob("logs/**/*.tsv"))
    once = seconds_of(running([sys.executable, "workflow/fork_server.py", "true"]))
    commands = {
        "to read the workflow": ["snakemake", "--dry-run", "--quiet", "--directory", str(folder)],
        "to import train_adapter": importing("stages.train_adapter"),
        "to import make_tables": importing("stages.make_tables"),
        "of sacd --help": [sys.executable, "-m", "cli.main", "--help"],
    }
    table = pd.DataFrame(
        [
            ("seconds from the first job's start to the last one's end", elapsed),
            ("seconds of jobs, summed", jobs),
            ("seconds of stages' own work, summed", work),
            ("jobs", len(benchmarks)),
            ("seconds of start-up, of a job", (jobs - work) / len(benchmarks)),
            ("share of jobs' seconds that is start-up", 1 - work / jobs),
            ("seconds of the fork server's start, once", once),
            ("share that is start-up, with the fork server's", 1 - work / (jobs + once)),
            ("share of jobs' seconds that is scoring", scoring / jobs),
            *((f"seconds {what}", seconds_of(running(given))) for what, given in commands.items()),
        ],
        columns=["what", "value"],
    )
    publish(table, str(folder), "overhead", arguments.name)


def seconds_of_run(folder: Path) -> tuple[float, float]:
    """Of a finished run: of all stages' own work, and from start to end."""
    records = {*folder.rglob("record.json"), *folder.rglob("*.record.json")}
    kept = [path for path in records if path.relative_to(folder).parts[0] not in OTHER_RUNS]
    work = sum(read_json(path).get("wall_seconds", 0.0) for path in kept)
    notes = [json.loads(path.read_text()) for path in (folder / ".snakemake/metadata").iterdir()]
    times = [(note["starttime"], note["endtime"]) for note in notes if note.get("starttime")]
    return work, max(end for _, end in times) - min(start for start, _ in times)


def importing(module: str) -> list[str]:
    return [sys.executable, "-c", f"import {module}"]


def running(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
