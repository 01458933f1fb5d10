"""What is drawn to be scored and shown, not kept: a folder of scores and some of the pictures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sacd.files import atomic, readable
from sacd.provenance import require_intact

SCORES, EXAMPLES = "scores.parquet", "examples.safetensors"


def write_drawn(
    folder: Path, tables: Sequence[pd.DataFrame], examples: dict[str, list[Tensor]]
) -> None:
    """Write tables, as one, and pictures by method, stacked."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        pd.concat(tables, ignore_index=True).to_parquet(temporary / SCORES, index=False)
        pictures = {method: torch.stack(shown) for method, shown in examples.items()}
        save_file(pictures, temporary / EXAMPLES)


def read_scores(folder: Path) -> pd.DataFrame:
    """The table that `write_drawn` wrote."""
    with readable(folder / SCORES):
        require_intact(folder / SCORES)
        return pd.read_parquet(folder / SCORES)


def read_examples(folder: Path) -> dict[str, Tensor]:
    """The pictures that `write_drawn` wrote."""
    with readable(folder / EXAMPLES):
        require_intact(folder / EXAMPLES)
        return load_file(folder / EXAMPLES)
