"""Mistakes end in one clear message, exit status 1 and nothing lost; helping is quick."""

import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Checkout, one_message
from PIL import Image

from sacd.files import read_json
from sacd.images.collection import Collection
from sacd.shards import Shards, write_shards


@pytest.fixture
def process(repository: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Call with a folder and Python's arguments: the finished process."""

    def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
        more = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=os.environ | more, text=True,
            capture_output=True, check=False,
        )  # fmt: skip

    return start


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a host fails the test: no folder's name may be taken for one of a model hub."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"asked the network for {arguments[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestProcesses:
    def test_a_stage_without_params_says_where_to_run(self, tmp_path: Path, process: Callable):
        done = process(tmp_path, "-m", "stages.prepare_images")
        message = one_message(done.returncode, done.stderr)
        assert message.startswith(
            f"{tmp_path / 'params.yaml'}: no such file; run in an experiment's"
        )
        assert done.stdout == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_stage_with_a_wrong_key_names_it(
        self, tmp_path: Path, process: Callable, fixture_params: dict[str, Any]
    ):
        fixture_params["images"]["clases"] = fixture_params["images"].pop("classes")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(fixture_params))
        done = process(tmp_path, "-m", "stages.prepare_images")
        message = one_message(done.returncode, done.stderr)
        assert "images.clases: unknown key; did you mean 'classes'?" in message

    def test_help_is_quick_and_needs_no_torch(self, tmp_path: Path, process: Callable):
        script = (
            "import sys; sys.argv = ['sacd', '--help']\n"
            "from cli.main import main\n"
            "try: main()\n"
            "finally: print({'torch', 'timm', 'pandas'} & set(sys.modules), file=sys.stderr)"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = process(tmp_path, "-c", script)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        assert "invert" in done.stdout
        assert done.stderr.strip() == "set()"
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        assert used < 1.0

    def test_the_command_as_people_start_it(self, tmp_path: Path, process: Callable):
        done = process(
            tmp_path, "-m", "cli.main", "invert", "absent.png", "--adapter", ".", "--out", "x.png"
        )
        message = one_message(done.returncode, done.stderr)
        assert message == "absent.png: cannot be read (No such file or directory).\n"


class TestCompiling:
    @pytest.mark.parametrize(
        ("stage", "option"), [("train_adapter", "--adapter"), ("draw_samples", "--method")]
    )
    def test_without_a_compiler_says_so(
        self, finished: Checkout, call_stage: Callable, monkeypatch: pytest.MonkeyPatch,
        stage: str, option: str,
    ):  # fmt: skip
        monkeypatch.chdir(finished.experiment)
        monkeypatch.setenv("SACD_COMPILE", "1")
        monkeypatch.setenv("CXX", "no-compiler")
        status, said = call_stage(stage, "--backbone", "tiny_a", option, "spatial")
        expected = "Compiling needs a C++ compiler, and there is no 'no-compiler' (CXX).\n"
        assert one_message(status, said) == expected


class TestNamesOnTheCommandLine:
    @pytest.mark.parametrize(
        ("stage", "arguments", "expected"),
        [
            (
                "make_backbone", ["--backbone", "tiny_b"],
                "unknown backbone 'tiny_b'. Did you mean 'tiny_a'",
            ),
            (
                "make_segmenter", ["--segmenter", "findr"],
                "unknown segmenter 'findr'. Did you mean 'finder'",
            ),
            (
                "train_adapter", ["--backbone", "tiny_a", "--adapter", "spatail"],
                "unknown adapter 'spatail'. Did you mean 'spatial'",
            ),
            (
                "draw_samples", ["--backbone", "tiny_a", "--method", "poled"],
                "unknown method 'poled'. Did you mean 'pooled'",
            ),
        ],
    )  # fmt: skip
    def test_an_unknown_name_lists_what_there_is(
        self, in_experiment: Callable, call_stage: Callable, fixture_params,
        stage: str, arguments: list[str], expected: str,
    ):  # fmt: skip
        in_experiment(fixture_params)
        assert expected in one_message(*call_stage(stage, *arguments))

    def test_what_was_not_made_yet_is_named(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        in_experiment(fixture_params)
        message = one_message(*call_stage("cache_features", "--backbone", "tiny_a"))
        assert message.startswith("models/backbones/tiny_a/config.json: no such file; run the step")


class TestOrder:
    def test_features_of_other_images_than_the_latents(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        folder = in_experiment(fixture_params)
        ids = ["a", "b", "c"]

        def block(start: int, stop: int) -> dict[str, torch.Tensor]:
            return {name: torch.zeros(stop - start, 4, 8, 8) for name in ("features", "latents")}

        for name, order in (("latents/train", ids), ("features/tiny_a/train", ids[::-1])):
            write_shards(folder / name, folder / ".work", order, 2, block, {})
        arguments = ["--backbone", "tiny_a", "--adapter", "spatial"]
        message = one_message(*call_stage("train_adapter", *arguments))
        assert message.startswith(
            "features/tiny_a/train: its rows are not those of latents/train in the same order"
        )
        assert not (folder / "adapters").exists()

    def test_images_of_another_manifest(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        folder = in_experiment(fixture_params)
        assert call_stage("prepare_images")[0] == 0
        images = Shards(folder / "data/images/train")
        pixels = images.read_all("images")
        write_shards(
            images.folder, folder / ".work/swapped", images.ids[::-1], 100,
            lambda start, stop: {"images": pixels[start:stop]}, {},
        )  # fmt: skip
        message = one_message(*call_stage("make_backbone", "--backbone", "tiny_a"))
        assert message.startswith(
            "data/images/train: its rows are not those of data/manifest.parquet in the same order"
        )


class TestShapes:
    def test_an_unknown_class_names_the_nearest(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        fixture_params["images"]["classes"] = ["solid_disk"]
        in_experiment(fixture_params)
        message = one_message(*call_stage("prepare_images"))
        assert "images.classes: unknown class 'solid_disk'. Did you mean 'solid_disc'?" in message

    def test_more_classes_than_there_are(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        fixture_params["images"]["classes"] = 21
        in_experiment(fixture_params)
        message = one_message(*call_stage("prepare_images"))
        assert "images.classes: 21 asked for" in message
        assert "20" in message


@pytest.fixture
def photos(tmp_path: Path, fixture_params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an experiment on two classes of twelve photographs each, in `photos/`."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(12):
            blocks = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
            blocks.resize((40, 50)).save(tmp_path / "photos" / name / f"{index:02d}.png")
    fixture_params["images"] = {
        "source": str(tmp_path / "photos"),
        "size": 32,
        "classes": "all",
        "per_class": {"train": 3, "val": 2, "test": 2},
        "max_skipped": 0.3,
    }
    fixture_params["segmenters"] = {}
    fixture_params["compare"]["segmenters"] = []
    fixture_params["prior"] = {"source": "pretrained/prior", "autoencoder": None, "unet": None}
    for backbone in fixture_params["backbones"].values():
        backbone["training"]["dense"] = False
    return fixture_params


class TestPhotographs:
    def first_choices(self, params: dict[str, Any], split: str, name: str) -> list[Path]:
        """Files of a class in the order in which a split will take them."""
        collection = Collection(Path(params["images"]["source"]))
        chosen = collection.choose("all", params["images"]["per_class"], params["seed"])
        return [collection.source / entry.path for entry in chosen[split][name]]

    def test_unusable_files_are_skipped_counted_and_listed(
        self, in_experiment: Callable, call_stage: Callable, photos
    ):
        folder = in_experiment(photos)
        tiny, broken = self.first_choices(photos, "test", "cat")[:2]
        Image.new("RGB", (20, 90)).save(tiny)
        broken.write_bytes(broken.read_bytes()[:60])
        status, stderr = call_stage("prepare_images")
        assert status == 0, stderr
        skipped = pd.read_csv(folder / "data/skipped.csv")
        assert skipped.path.tolist() == [f"cat/{tiny.name}", f"cat/{broken.name}"]
        assert skipped.reason[0] == "too small: 20x90 px, needs 32"
        assert skipped.reason[1].startswith("unreadable: ")
        assert read_json(folder / "data/record.json")["skipped"] == 2
        table = pd.read_parquet(folder / "data/manifest.parquet")
        counts = table.groupby(["split", "class_name"]).size()
        assert counts.to_dict() == {
            (split, name): count
            for split, count in {"train": 3, "val": 2, "test": 2}.items()
            for name in ("cat", "dog")
        }
        assert not set(table.image_id) & set(skipped.path)
        assert (
            Shards(folder / "data/images/test").ids
            == table[table.split == "test"].image_id.tolist()
        )

    def test_a_link_to_nothing_is_skipped_like_any_unusable_file(
        self, in_experiment: Callable, call_stage: Callable, photos
    ):
        folder = in_experiment(photos)
        link = self.first_choices(photos, "test", "dog")[0]
        link.unlink()
        link.symlink_to("nowhere.png")
        status, stderr = call_stage("prepare_images")
        assert status == 0, stderr
        skipped = pd.read_csv(folder / "data/skipped.csv")
        assert skipped.path.tolist() == [f"dog/{link.name}"]
        assert skipped.reason[0] == "unreadable: No such file or directory"

    def test_too_many_unusable_files_are_an_error(
        self, in_experiment: Callable, call_stage: Callable, photos
    ):
        photos["images"]["max_skipped"] = 0.1
        folder = in_experiment(photos)
        for broken in self.first_choices(photos, "test", "cat")[:2]:
            broken.write_bytes(b"no picture")
        message = one_message(*call_stage("prepare_images"))
        assert (
            "photos: 2 images (12.5%) are unusable, more than images.max_skipped (10.0%)" in message
        )
        first = self.first_choices(photos, "test", "cat")[0].name
        assert re.search(rf"The first of 2 skipped:\n  cat/{first}: unreadable", message)
        assert not (folder / "data/manifest.parquet").exists()

    def test_a_class_with_too_few_usable_images_is_an_error(
        self, in_experiment: Callable, call_stage: Callable, photos
    ):
        in_experiment(photos)
        for broken in self.first_choices(photos, "val", "dog")[:3]:
            broken.write_bytes(b"no picture")
        message = one_message(*call_stage("prepare_images"))
        assert (
            "photos: class 'dog' has 1 usable val images, images.per_class.val asks for 2"
            in message
        )

    def test_a_class_that_is_only_among_the_training_images_is_an_error(
        self, in_experiment: Callable, call_stage: Callable, photos, tmp_path: Path
    ):
        source = tmp_path / "photos"
        for split, names in {"train": ("cat", "dog"), "val": ("cat",)}.items():
            for name in names:
                (source / split / name).mkdir(parents=True)
                for file in (source / name).iterdir():
                    (source / split / name / file.name).write_bytes(file.read_bytes())
        for name in ("cat", "dog"):
            for file in (source / name).iterdir():
                file.unlink()
            (source / name).rmdir()
        in_experiment(photos)
        message = one_message(*call_stage("prepare_images"))
        assert re.search("class 'dog' has 0 usable (val|test) images", message)

    @pytest.mark.parametrize("classes", ["all", ["cat", "owl"]])
    def test_an_empty_class_is_named(
        self, in_experiment: Callable, call_stage: Callable, photos, tmp_path: Path, classes
    ):
        (tmp_path / "photos/owl").mkdir()
        photos["images"]["classes"] = classes
        in_experiment(photos)
        assert "'owl'" in one_message(*call_stage("prepare_images"))

    def test_a_missing_archive_is_named(
        self, in_experiment: Callable, call_stage: Callable, photos, tmp_path: Path
    ):
        photos["images"]["source"] = str(tmp_path / "photos.tar")
        in_experiment(photos)
        message = one_message(*call_stage("prepare_images"))
        assert message == (
            f"images.source: {tmp_path / 'photos.tar'}: no such folder or archive.\n"
        )


class TestModels:
    def test_a_source_that_does_not_exist_is_named(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        fixture_params["backbones"]["tiny_a"] |= {
            "source": "absent.safetensors",
            "training": None,
            "finetune": None,
        }
        in_experiment(fixture_params)
        message = one_message(*call_stage("make_backbone", "--backbone", "tiny_a"))
        assert message.startswith(
            "backbones.tiny_a.source: 'absent.safetensors' does not exist; give"
        )

    def test_training_with_a_tapped_layer_is_refused(
        self, in_experiment: Callable, call_stage: Callable, fixture_params
    ):
        fixture_params["backbones"]["tiny_a"]["layer"] = "layer3"
        in_experiment(fixture_params)
        message = one_message(*call_stage("make_backbone", "--backbone", "tiny_a"))
        assert message.startswith("backbones.tiny_a.layer: train with 'forward_features'")

    @pytest.mark.parametrize("stage", ["make_autoencoder", "make_prior"])
    def test_a_prior_that_does_not_exist_is_named(
        self, in_experiment: Callable, call_stage: Callable, fixture_params, offline, stage: str
    ):
        fixture_params["prior"] = {"source": "./some/prior", "autoencoder": None, "unet": None}
        in_experiment(fixture_params)
        assert "some/prior" in one_message(*call_stage(stage))

    def test_a_probe_that_does_not_exist_is_named(
        self, in_experiment: Callable, call_stage: Callable, fixture_params, offline
    ):
        fixture_params["segmenters"]["finder"] |= {"source": "some/finder", "training": None}
        in_experiment(fixture_params)
        message = one_message(*call_stage("make_segmenter", "--segmenter", "finder"))
        assert message.startswith("some/finder: no UNet2DModel of diffusers here")

    @pytest.mark.parametrize("stage", ["cache_latents", "make_prior"])
    def test_an_autoencoder_that_was_not_made_yet_is_named(
        self, in_experiment: Callable, call_stage: Callable, fixture_params, offline, stage: str
    ):
        folder = in_experiment(fixture_params)
        write_shards(
            folder / "latents/train", folder / ".work/latents", ["a", "b"], 2,
            lambda start, stop: {"latents": torch.ones(2, 4, 8, 8)}, {},
        )  # fmt: skip
        assert "models/autoencoder" in one_message(*call_stage(stage))
