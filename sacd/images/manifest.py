"""The manifest: one row an image, the order in which every other artefact keeps its rows."""

from pathlib import Path

import numpy as np
import pandas as pd

from sacd.errors import SacdError
from sacd.files import atomic, readable
from sacd.provenance import require_intact

REQUIRED = ("image_id", "split", "label", "class_name", "source", "width", "height", "sha256")


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """Write the manifest; raises if ids repeat or a column of the contract is missing."""
    if missing := [name for name in REQUIRED if name not in table]:
        raise ValueError(f"manifest lacks {missing}")
    repeated = table.image_id[table.image_id.duplicated()]
    if len(repeated):
        raise SacdError(f"{path}: image id '{repeated.iloc[0]}' appears more than once.")
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_manifest(path: Path, split: str) -> pd.DataFrame:
    """The rows of a split, in order."""
    with readable(path):
        require_intact(path)
        table = pd.read_parquet(path)
        if missing := [name for name in REQUIRED if name not in table]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
    return table[table.split == split].reset_index(drop=True)


def pack_mask(mask: np.ndarray) -> bytes:
    """A boolean (H, W) mask as bits, for a column of bytes."""
    return np.packbits(mask).tobytes()


def unpack_masks(column: pd.Series, size: int) -> np.ndarray:
    """The column of `pack_mask` -> bool (N, size, size)."""
    bits = np.stack([np.unpackbits(np.frombuffer(row, np.uint8)) for row in column])
    return bits[:, : size * size].reshape(-1, size, size).astype(bool)
