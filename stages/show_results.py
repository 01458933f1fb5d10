"""Print the main table and the checks of a finished experiment, and name its files."""

import argparse

import pandas as pd

from sacd.errors import SacdError
from stages.artefacts import FIGURES, REPORT, SHOWN, TABLES
from stages.common import run


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not (TABLES / "main.csv").exists():
        raise SacdError(f"{TABLES / 'main.csv'}: no such table yet; run snakemake first.")
    table = pd.read_csv(TABLES / "main.csv", na_values="n/a")
    columns = ["backbone", "method", "kind", *(name for name in SHOWN if table[name].notna().any())]
    print(table[columns].to_string(index=False, float_format="%.3f"))
    checks = pd.read_csv(TABLES / "checks.csv")
    print(f"\n{int(checks.holds.sum())} of {len(checks)} checks hold ({TABLES / 'checks.csv'})")
    print(f"table:  {TABLES / 'main.csv'}")
    print(f"figure: {FIGURES / 'reconstructions.png'}")
    print(f"report: {REPORT}")


if __name__ == "__main__":
    run(main)
