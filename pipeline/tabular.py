"""Tables as files: CSV for programs, Markdown for reading."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.artefacts import TABLES, score_file
from sacd.files import atomic, readable
from sacd.provenance import require_intact


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table of results, numbers to five digits."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.5g", na_rep="n/a")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    first, *others = (f"| {' | '.join(cells)} |\n" for cells in (heads, *rows))
    return f"{first}|{'---|' * len(heads)}\n{''.join(others)}"


def interval(row: Mapping[str, object], metric: str, digits: int = 3) -> str:
    """A mean and its interval, from the columns `metric`, `_low` and `_high`."""
    mean, low, high = (row[f"{metric}{suffix}"] for suffix in ("", "_low", "_high"))
    if mean is None or mean != mean:
        return "n/a"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def read_method_scores(backbone: str, method: str) -> pd.DataFrame:
    """A row for each sample of a method, or for all references (`REFERENCE_SCORES`)."""
    path = score_file(backbone, method)
    with readable(path):
        require_intact(path)
        return pd.read_parquet(path)


def read_table(name: str) -> pd.DataFrame:
    """A table of results/tables; what does not apply is NaN."""
    path = TABLES / f"{name}.csv"
    with readable(path):
        return pd.read_csv(path, na_values="n/a")
