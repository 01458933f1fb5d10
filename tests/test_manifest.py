"""The manifest and the masks in it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sacd.errors import SacdError
from sacd.images.manifest import REQUIRED, pack_mask, read_manifest, unpack_masks, write_manifest


def manifest(ids: list[str], splits: list[str]) -> pd.DataFrame:
    columns = dict.fromkeys(REQUIRED, 0) | {"image_id": ids, "split": splits}
    return pd.DataFrame(columns)


def test_a_split_is_read_in_the_order_of_its_rows(tmp_path: Path):
    path = tmp_path / "data/manifest.parquet"
    write_manifest(path, manifest(["c", "a", "b"], ["test", "train", "test"]))
    table = read_manifest(path, "test")
    assert table.image_id.tolist() == ["c", "b"]
    assert table.index.tolist() == [0, 1]


def test_a_repeated_id_is_named_and_nothing_is_written(tmp_path: Path):
    path = tmp_path / "manifest.parquet"
    with pytest.raises(SacdError, match=r"manifest\.parquet: image id 'b' appears more than once"):
        write_manifest(path, manifest(["a", "b", "b"], ["train"] * 3))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_an_error_of_the_caller(tmp_path: Path):
    table = manifest(["a"], ["train"]).drop(columns=["sha256"])
    with pytest.raises(ValueError, match="sha256"):
        write_manifest(tmp_path / "manifest.parquet", table)


def test_a_missing_and_a_broken_manifest_are_named(tmp_path: Path):
    path = tmp_path / "manifest.parquet"
    with pytest.raises(SacdError, match=r"manifest\.parquet: no such file; run the step"):
        read_manifest(path, "test")
    path.write_bytes(b"PAR1 this is no table")
    with pytest.raises(SacdError, match=r"manifest\.parquet: cannot be read"):
        read_manifest(path, "test")


@pytest.mark.parametrize("size", [8, 13])  # 169 bits do not fill their bytes
def test_masks_come_back_as_they_were(size):
    masks = np.random.default_rng(0).random((4, size, size)) < 0.5
    column = pd.Series([pack_mask(mask) for mask in masks])
    assert np.array_equal(unpack_masks(column, size), masks)
