"""Say what an experiment will take before it is run: jobs, operations, hours and disk, by rule.

Hours come from the rates in benchmarks/rates/, measured by benchmarks/rates.py: a file a device.
Nothing is made. What is read is params.yaml, the configuration of the prior that it names, and the
list of images.
"""

import argparse

from pipeline.artefacts import ROOT
from pipeline.costs import Row, add, measure_costs, plan
from pipeline.program import run
from pipeline.settings.load import load_settings
from sacd.files import read_json

RATES = ROOT / "benchmarks" / "rates"
# Rules without a row, and what in `compare` asks for them. All others take minutes.
UNCOUNTED = {
    "train_decoder": "decoders", "measure_robustness": "disturbances", "draw_edits": "edits",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    settings = load_settings()
    costs, origin = measure_costs(settings)
    rows = plan(settings, costs)
    devices = {path.stem: read_json(path) for path in sorted(RATES.glob("*.json"))}
    print("\n".join(table(rows, devices)))
    print(f"\nPrior: {origin}. Networks are taken for given.")
    if uncounted := [rule for rule, asked in UNCOUNTED.items() if getattr(settings.compare, asked)]:
        print(f"Not counted, though they may take as long: {', '.join(uncounted)}.")
    print("Work space: of checkpoints in .work/, gone when a rule has ended.")
    for name, measured in devices.items():
        print(f"Hours on {name}: {measured['device']}, with {measured['networks']}.")
    print("For hours on another device, on it: python benchmarks/rates.py EXPERIMENT")


def table(rows: list[Row], devices: dict[str, dict]) -> list[str]:
    """Lines of text: a head, a line for each row, and their sum."""
    head = ["rule", "jobs", "TFLOP", *(f"hours {name}" for name in devices), "disk GB", "work GB"]
    cells = [
        [
            row.rule,
            str(row.jobs),
            f"{sum(row.operations.values()) / 1e12:,.0f}",
            *(f"{hours(row, measured['rates']):,.2f}" for measured in devices.values()),
            f"{row.bytes / 1e9:,.2f}",
            f"{row.work_bytes / 1e9:,.2f}",
        ]
        for row in [*rows, total(rows)]
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *cells]
    ]


def hours(row: Row, rates: dict[str, float]) -> float:
    """Of one device, at `rates` operations a second for each kind."""
    return sum(number / rates[kind] for kind, number in row.operations.items()) / 3600


def total(rows: list[Row]) -> Row:
    """The sum of all rows."""
    everything = Row("all", sum(row.jobs for row in rows))
    for row in rows:
        add(everything.operations, row.operations)
        everything.bytes += row.bytes
        everything.work_bytes += row.work_bytes
    return everything


if __name__ == "__main__":
    run(main)
