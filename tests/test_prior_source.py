"""Which files a prior is imported by, from a folder or a hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Checkout
from dry_run import planned

from sacd.errors import SacdError
from sacd.prior.prior import Prior
from sacd.prior.source import PARTS, imported_files, local_folder
from sacd.weight_files import choose_weights

STEM = "diffusion_pytorch_model"
# A repository in the layout of Stable Diffusion with every set of weights there is.
REPOSITORY = [
    "README.md", "v1-5-pruned.safetensors", "model_index.json",
    "feature_extractor/preprocessor_config.json", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "unet/config.json", f"unet/{STEM}.safetensors", f"unet/{STEM}.fp16.safetensors",
    f"unet/{STEM}.non_ema.safetensors", f"unet/{STEM}.bin", f"unet/{STEM}.fp16.bin",
    "unet/flax_model.msgpack", "vae/config.json", f"vae/{STEM}.fp16.safetensors", f"vae/{STEM}.bin",
    "text_encoder/config.json", "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
]  # fmt: skip
READ = [
    "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json",
    f"unet/{STEM}.safetensors", "vae/config.json", f"vae/{STEM}.fp16.safetensors",
]  # fmt: skip


class TestWeights:
    @pytest.mark.parametrize(
        ("names", "files", "variant", "safe"),
        [
            ([f"{STEM}.bin", f"{STEM}.x.safetensors"], [f"{STEM}.x.safetensors"], "x", True),
            ([f"{STEM}.fp16.bin", f"{STEM}.bin"], [f"{STEM}.bin"], None, False),
            (
                [f"{STEM}.non_ema.safetensors", f"{STEM}.fp16.safetensors"],
                [f"{STEM}.fp16.safetensors"], "fp16", True,
            ),
            (
                [f"{STEM}-00002-of-00002.safetensors", f"{STEM}-00001-of-00002.safetensors",
                 f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors"],
                [f"{STEM}-00001-of-00002.safetensors", f"{STEM}-00002-of-00002.safetensors"],
                None, True,
            ),
            (
                ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
                ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
                "fp16", True,
            ),
        ],
    )  # fmt: skip
    def test_one_set_of_those_there_are(
        self, names: list[str], files: list[str], variant: str | None, safe: bool
    ):
        found = choose_weights(names)
        assert found is not None
        assert (list(found.files), found.variant, found.safetensors) == (files, variant, safe)

    def test_what_is_no_weights_is_none(self):
        names = [
            "config.json",
            "flax_model.msgpack",
            f".{STEM}.safetensors",
            f"{STEM}.safetensors~",
        ]
        assert choose_weights(names) is None

    def test_parts_are_read_as_one(self, tmp_path: Path, tiny_prior: Callable):
        prior = tiny_prior()
        prior.save(tmp_path / "prior")
        (tmp_path / f"prior/unet/{STEM}.safetensors").unlink()
        prior.unet.half().save_pretrained(
            tmp_path / "prior/unet", max_shard_size="40KB", variant="fp16"
        )
        files = imported_files(tmp_path / "prior", ["unet"])
        assert len([path for path in files if path.suffix == ".safetensors"]) > 1
        again = Prior.from_pretrained(tmp_path / "prior").unet
        for name, value in prior.unet.float().state_dict().items():
            assert bool((again.state_dict()[name] == value).all()), name


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
        """A hub with one repository; what is fetched from it."""
        fetched: list[dict[str, Any]] = []

        def fetch(name: str, **asked: Any) -> str:
            fetched.append(asked)
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: REPOSITORY)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        return fetched

    def test_configurations_and_one_set_of_weights_are_fetched(
        self, hub: list[dict[str, Any]], tmp_path: Path
    ):
        assert local_folder("owner/model") == tmp_path
        assert hub == [{"allow_patterns": READ}]

    def test_out_of_reach_what_was_fetched_before_will_do(
        self, hub: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(name: str) -> list[str]:
            raise ConnectionError("no route")

        monkeypatch.setattr("huggingface_hub.list_repo_files", fail)
        assert local_folder("owner/model") == tmp_path
        assert hub == [{"local_files_only": True}]

    @pytest.mark.parametrize("source", ["no/such/folder", "/no/folder", "", "name"])
    def test_what_is_neither_folder_nor_name_is_not_asked_for(
        self,
        hub: list[dict[str, Any]],
        source: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        with pytest.raises(SacdError, match=r"^prior\.source: .*no such folder; give it, or a hub"):
            local_folder(source or "absent")
        assert hub == []


class TestInputs:
    def test_a_folder_is_read_by_the_same_files(self, tmp_path: Path):
        for name in REPOSITORY:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = [path.relative_to(tmp_path).as_posix() for path in imported_files(tmp_path, PARTS)]
        assert found == READ
        (tmp_path / "null_prompt.safetensors").touch()
        found = [path.relative_to(tmp_path).as_posix() for path in imported_files(tmp_path, PARTS)]
        text = [name for name in READ if name.startswith(("text_encoder", "tokenizer"))]
        assert found == sorted({*READ, "null_prompt.safetensors"} - {*text})

    def test_what_is_read_is_an_input_of_the_rules(
        self, checkout: Checkout, tmp_path: Path, tiny_prior: Callable
    ):
        made = checkout.copy(tmp_path / "repository")
        folder = made.root / "pretrained/variant"
        tiny_prior().save(folder)
        for part in ("unet", "vae"):
            path = folder / part / f"{STEM}.safetensors"
            path.rename(path.with_name(f"{STEM}.fp16.safetensors"))
        source = "../../pretrained/variant"
        made.edit(
            lambda params: params.update(
                prior={"source": source, "autoencoder": None, "unet": None}
            )
        )
        jobs = planned(made.snakemake("--dry-run", "--forceall").stdout)
        inputs = {job.rule: job.inputs for job in jobs}
        assert f"{source}/vae/{STEM}.fp16.safetensors" in inputs["make_autoencoder"]
        assert f"{source}/unet/{STEM}.fp16.safetensors" not in inputs["make_autoencoder"]
        for part in ("unet", "vae"):
            assert f"{source}/{part}/{STEM}.fp16.safetensors" in inputs["make_prior"]
