"""Tables for reading, in Markdown."""

from collections.abc import Mapping, Sequence


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
