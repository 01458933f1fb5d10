"""Print the main table, the checks and the cost of a finished experiment, and name its files."""

import argparse
from pathlib import Path

import pandas as pd

from pipeline.artefacts import FIGURES, LOGS, REPORT, SHOWN, TABLES
from pipeline.program import run
from pipeline.tabular import read_table


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    table = read_table("main")
    columns = ["backbone", "method", "kind", *(name for name in SHOWN if table[name].notna().any())]
    print(table[columns].to_string(index=False, float_format="%.3f"))
    checks = read_table("checks")
    print(f"\n{int(checks.holds.sum())} of {len(checks)} checks hold ({TABLES / 'checks.csv'})")
    print(f"seconds of jobs: {_spent(seconds_of_rules(LOGS))}")
    print(f"table:  {TABLES / 'main.csv'}")
    print(f"figure: {FIGURES / 'reconstructions.png'}")
    print(f"report: {REPORT}")


def seconds_of_rules(logs: Path) -> dict[str, float]:
    """Wall seconds of each rule's jobs, from Snakemake's benchmark files.

    Jobs run side by side, so that an experiment takes less than their sum.
    """
    seconds: dict[str, float] = {}
    for path in logs.rglob("*.benchmark.tsv"):
        rule = path.relative_to(logs).parts[0].removesuffix(".benchmark.tsv")
        seconds[rule] = seconds.get(rule, 0) + pd.read_csv(path, sep="\t").s.sum()
    return seconds


def _spent(seconds: dict[str, float]) -> str:
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    total = sum(seconds.values())
    return f"{total:.0f} (" + ", ".join(f"{rule} {value:.0f}" for rule, value in parts) + ")"


if __name__ == "__main__":
    run(main)
