"""Damage that keeps a file's size and time, and files swapped for others, are never used."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Checkout, one_message

from sacd import provenance
from sacd.errors import SacdError
from sacd.provenance import digests_of, file_sha256, require_intact, require_made_of

DRAW = ("draw_samples", "--backbone", "tiny_a", "--method", "spatial")
SCORE = ("score_samples", "--backbone", "tiny_a", "--method", "spatial")
TRAIN = ("train_adapter", "--backbone", "tiny_a", "--adapter", "spatial")
DAMAGED = {
    "data/manifest.parquet": SCORE,
    "data/images/test/shard-00000.safetensors": SCORE,
    "features/tiny_a/test/shard-00000.safetensors": DRAW,
    "latents/train/shard-00000.safetensors": TRAIN,
    "models/prior/unet/diffusion_pytorch_model.safetensors": DRAW,
    "models/prior/null_prompt.safetensors": DRAW,
    "models/autoencoder/diffusion_pytorch_model.safetensors": ("cache_latents",),
    "models/backbones/tiny_a/model.safetensors": SCORE,
    "models/segmenters/finder/diffusion_pytorch_model.safetensors": SCORE,
    "adapters/tiny_a/spatial/adapter.safetensors": DRAW,
    "samples/tiny_a/spatial/shard-00000.safetensors": SCORE,
    "scores/tiny_a/spatial.parquet": ("make_tables",),
}


def damage(path: Path) -> None:
    """Flip bits of a byte near the end; size and time stay."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x11
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Each test is another process's work: nothing has been read yet."""
    provenance._sha256.cache_clear()


@pytest.fixture(scope="module")
def mine(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished.copy(tmp_path_factory.mktemp("damaged") / "repository").experiment


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_stops_the_stage_that_reads_it(
    name: str, mine: Path, monkeypatch: pytest.MonkeyPatch, call_stage: Callable
):
    monkeypatch.chdir(mine)
    path = mine / name
    kept = path.with_name("kept")
    shutil.copy2(path, kept)
    damage(path)
    try:
        message = one_message(*call_stage(*DAMAGED[name]))
    finally:
        os.replace(kept, path)
    assert str(name) in message
    assert "make it again" in message


def test_an_adapter_is_refused_beside_another_backbone_or_prior(
    mine: Path, monkeypatch: pytest.MonkeyPatch, call_stage: Callable
):
    """Also where that one is whole, by its own record."""
    monkeypatch.chdir(mine)
    made_of = json.loads((mine / "adapters/tiny_a/spatial/record.json").read_text())["made_of"]
    assert "models/backbones/tiny_a/model.safetensors" in made_of
    for name in ("models/backbones/tiny_a/model.safetensors", "models/prior/unet/config.json"):
        path = mine / name
        kept, record = path.read_bytes(), (mine / "models/backbones/tiny_a/record.json")
        recorded = record.read_text()
        if path.suffix == ".json":
            path.write_text(json.dumps(json.loads(kept), indent=4))
        else:
            damage(path)
            others = json.loads(recorded)
            others["sha256"] = digests_of(record)
            record.write_text(json.dumps(others))
        provenance._sha256.cache_clear()
        try:
            message = one_message(*call_stage(*DRAW))
        finally:
            path.write_bytes(kept)
            record.write_text(recorded)
        assert message.startswith(f"adapters/tiny_a/spatial: was made with another {name}")


def test_the_command_refuses_them_too(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from sacd.sampling.inverter import Inverter

    path = mine / "models/backbones/tiny_a/config.json"  # no weights, and not of the adapter
    Inverter.from_pretrained(mine / "adapters/tiny_a/spatial")
    record = mine / "adapters/tiny_a/spatial/record.json"
    kept = record.read_text()
    changed = json.loads(kept)
    changed["made_of"]["models/backbones/tiny_a/config.json"] = "0" * 64
    record.write_text(json.dumps(changed))
    try:
        with pytest.raises(SacdError, match=rf"was made with another {path} than lies there now"):
            Inverter.from_pretrained(mine / "adapters/tiny_a/spatial")
    finally:
        record.write_text(kept)


class TestDigests:
    def test_a_record_holds_those_of_its_folder_but_for_shards(self, mine: Path):
        prior = digests_of(mine / "models/prior/record.json")
        assert set(prior) == {
            "null_prompt.safetensors", "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        }  # fmt: skip
        assert digests_of(mine / "features/tiny_a/record.json") == {}
        scores = digests_of(mine / "scores/tiny_a/spatial.record.json")
        assert set(scores) == {"spatial.parquet"}

    def test_a_digest_is_of_the_content_as_it_is(self, tmp_path: Path):
        path = tmp_path / "a"
        path.write_bytes(b"abc")
        known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert file_sha256(path) == known
        path.write_bytes(b"abcd")
        assert file_sha256(path) != known

    def test_what_has_no_record_is_taken(self, tmp_path: Path):
        (tmp_path / "a.safetensors").write_bytes(b"x")
        require_intact(tmp_path / "a.safetensors")
        require_made_of(tmp_path, tmp_path)
        (tmp_path / "record.json").write_text("{}")
        require_intact(tmp_path / "a.safetensors")
