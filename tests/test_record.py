"""`make record` and `make verify`: what DVC records is what was seen to be whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EXPERIMENT, Checkout
from recorded_run import NOTHING, changed, make
from test_provenance import damage

pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
def mine(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return finished.copy(tmp_path_factory.mktemp("record") / "repository")


def test_a_run_is_recorded_and_both_tools_are_clean(mine: Checkout):
    left = mine.experiment / "samples/tiny_a/forgotten/shard-00000.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"of a method that is gone")
    done = make("record", mine, str(EXPERIMENT))
    assert done.returncode == 0, done.stdout
    assert re_find(done.stdout, "removed", "samples/tiny_a/forgotten/shard-00000.safetensors")
    assert not left.exists()
    assert changed(mine) == set()
    assert NOTHING in mine.snakemake("--dry-run").stdout
    done = make("verify", mine, str(EXPERIMENT))
    assert done.returncode == 0, done.stdout
    assert "every file is what its record tells of" in done.stdout


def test_a_run_that_is_not_finished_is_not_recorded(mine: Checkout):
    before = (mine.experiment / "dvc.lock").read_text()
    kept = mine.params
    mine.edit(lambda params: params["methods"]["pooled"].update(steps=4))
    try:
        done = make("record", mine, str(EXPERIMENT))
    finally:
        mine.write(kept)
    assert done.returncode != 0
    assert "is not finished; run snakemake" in done.stdout
    assert (mine.experiment / "dvc.lock").read_text() == before


def test_nothing_is_removed_behind_a_link(
    mine: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Scratch folders are links, and may hold what other experiments made."""
    monkeypatch.syspath_prepend(str(mine.root / "workflow"))
    from record import _left_over

    features = mine.experiment / "features"
    features.rename(tmp_path / "scratch")
    (tmp_path / "scratch/of_others").write_text("not ours")
    features.symlink_to(tmp_path / "scratch")
    try:
        assert not [path for path in _left_over(mine.experiment) if "scratch" in str(path)]
    finally:
        features.unlink()
        (tmp_path / "scratch/of_others").unlink()
        (tmp_path / "scratch").rename(features)


def of_parameters(folder: Path) -> str:
    path = folder / "samples/tiny_a/pooled/record.json"
    record = json.loads(path.read_text())
    record["parameters"]["methods.pooled"]["steps"] = 9
    path.write_text(json.dumps(record))
    return "samples/tiny_a/pooled/record.json: params.yaml has another 'methods.pooled'"


def of_a_version(folder: Path) -> str:
    path = folder / "models/prior/record.json"
    record = json.loads(path.read_text())
    record["version"] = 0
    path.write_text(json.dumps(record))
    return "models/prior/record.json: by version 0 of make_prior"


def of_a_shard(folder: Path) -> str:
    damage(folder / "features/tiny_a/train/shard-00000.safetensors")
    return "features/tiny_a/train/shard-00000.safetensors: its content is not what its index says"


def of_a_table(folder: Path) -> str:
    damage(folder / "scores/tiny_a/pooled.parquet")
    return "scores/tiny_a/pooled.parquet: is not what scores/tiny_a/pooled.record.json tells of"


def of_what_was_used(folder: Path) -> str:
    damage(folder / "models/backbones/tiny_a/model.safetensors")
    return "model.safetensors: is not what adapters/tiny_a/spatial/record.json tells of"


@pytest.mark.parametrize(
    "difference", [of_parameters, of_a_version, of_a_shard, of_a_table, of_what_was_used]
)
def test_each_difference_is_named(
    difference: Callable[[Path], str], finished: Checkout, tmp_path: Path
):
    copied = finished.copy(tmp_path / "repository")
    said = difference(copied.experiment)
    done = make("verify", copied, str(EXPERIMENT))
    assert done.returncode != 0
    assert said in done.stdout
    assert "Traceback" not in done.stdout


def re_find(text: str, *parts: str) -> bool:
    """Whether a line holds all parts."""
    return any(all(part in line for part in parts) for line in text.splitlines())
