"""The command `sacd`: one image inverted and explained, and what it says to mistakes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import one_message
from PIL import Image


@pytest.fixture
def experiment(tiny_experiment: Path) -> Path:
    """An experiment's models and one picture; the current folder."""
    Image.effect_noise((50, 40), 80).save(tiny_experiment / "picture.png")
    return tiny_experiment


class TestInvert:
    @pytest.fixture
    def invert(self, call_stage: Callable) -> Callable[..., tuple[int, str]]:
        """Call with options that differ from a right call."""

        def call(image: str = "picture.png", **options: str) -> tuple[int, str]:
            named = {"adapter": "adapters/tiny/spatial", "out": "row.png", "steps": "2"} | options
            flags = [part for name, value in named.items() for part in (f"--{name}", value)]
            return call_stage("cli.main", "invert", image, *flags)

        return call

    def test_writes_the_original_and_its_samples(self, experiment: Path, invert: Callable):
        status, stderr = invert(samples="3")
        assert status == 0, stderr
        with Image.open(experiment / "row.png") as row:
            assert row.size == (4 * 32 + 3 * 2, 32)
            left = np.asarray(row.convert("L"))[:, :32].astype(int)
        with Image.open(experiment / "picture.png") as original:
            expected = np.asarray(
                original.resize((32, 32), Image.Resampling.BICUBIC, (5, 0, 45, 40))
            )
        assert abs(left - expected).max() <= 1

    def test_the_seed_decides_the_samples(self, experiment: Path, invert: Callable):
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
            invert(out=f"{name}.png", seed=seed)
        first, second, other = ((experiment / f"{name}.png").read_bytes() for name in "abc")
        assert first == second != other

    def test_draws_as_the_experiments_method_does(
        self, experiment: Path, fixture_params: dict[str, Any]
    ):
        from cli.one_image import how_to_draw

        adapter = experiment / "adapters/tiny/spatial"
        assert how_to_draw(adapter, None, None) == {}
        methods = fixture_params["methods"]
        fixture_params["methods"] = {"unconditional": methods["unconditional"], **methods}
        file = experiment / "params.yaml"
        file.write_text(yaml.safe_dump(fixture_params, sort_keys=False))
        method = methods["spatial"]
        keys = ("steps", "guidance", "guidance_interval", "energy_guidance")
        expected = {key: method[key] for key in keys}
        assert how_to_draw(adapter, None, None) == expected
        assert how_to_draw(adapter, 7, 0.0) == expected | {"steps": 7, "guidance": 0.0}

    def test_a_missing_image(self, experiment: Path, invert: Callable):
        message = one_message(*invert("absent.png"))
        assert message == "absent.png: cannot be read (No such file or directory).\n"

    def test_a_tiny_image(self, experiment: Path, invert: Callable):
        Image.new("RGB", (16, 64)).save(experiment / "tiny.png")
        assert one_message(*invert("tiny.png")) == "tiny.png: too small: 16x64 px, needs 32.\n"

    def test_a_file_that_is_no_image(self, experiment: Path, invert: Callable):
        (experiment / "text.png").write_text("hello")
        assert one_message(*invert("text.png")).startswith("text.png: unreadable: ")

    @pytest.mark.parametrize("folder", ["adapters/tiny", "nowhere", "/"])
    def test_a_folder_that_is_no_adapter(self, experiment: Path, invert: Callable, folder: str):
        message = one_message(*invert(adapter=folder))
        assert message.startswith(f"{folder}: not an adapter's folder (no config.json)")
        assert not (experiment / "row.png").exists()

    def test_a_backbones_folder_in_the_adapters_place(self, experiment: Path, invert: Callable):
        message = one_message(*invert(adapter="models/backbones/tiny"))
        assert "models/backbones/tiny" in message
        assert "adapter" in message

    @pytest.mark.parametrize("option", ["samples", "steps"])
    @pytest.mark.parametrize("value", ["0", "-3"])
    def test_numbers_below_one(self, experiment: Path, invert: Callable, option: str, value: str):
        message = one_message(*invert(**{option: value}))
        assert message == f"--{option} must be at least 1.\n"

    def test_a_number_that_is_none_is_told_with_the_usage(self, experiment: Path, invert: Callable):
        status, stderr = invert(samples="many")
        assert status == 2
        assert "argument --samples: invalid int value: 'many'" in stderr

    @pytest.mark.parametrize("name", ["row.xyz", "row", "row.psd"])
    def test_an_image_type_that_cannot_be_written(
        self, experiment: Path, invert: Callable, name: str
    ):
        message = one_message(*invert(out=name))
        assert message.startswith(f"--out {name}: ")
        assert ".png" in message
        assert not (experiment / name).exists()

    def test_a_place_that_cannot_be_written(self, experiment: Path, invert: Callable):
        message = one_message(*invert(out="picture.png/row.png"))
        assert message.startswith("picture.png/row.png: could not be written")


class TestExplain:
    @pytest.fixture
    def explain(self, call_stage: Callable) -> Callable[..., tuple[int, str]]:
        """Call with options that differ from a right call."""

        def call(image: str = "picture.png", **options: str) -> tuple[int, str]:
            named = {"adapter": "adapters/tiny/spatial", "out": "page.html", "steps": "2"}
            named |= {"samples": "2"} | options
            flags = [part for name, value in named.items() for part in (f"--{name}", value)]
            return call_stage("cli.main", "explain", image, *flags)

        return call

    def test_the_page_has_picture_and_scores(self, experiment: Path, explain: Callable):
        status, stderr = explain()
        assert status == 0, stderr
        page = (experiment / "page.html").read_text()
        assert "What tiny sees in picture.png" in page
        assert len(re.findall(r"src='data:image/png;base64,[\w+/]{100}", page)) == 1
        rows = re.findall(r"<tr>\s*<td>(.*?)</td>", page)
        assert rows == ["autoencoder (ceiling)", "no features (floor)", "sample 1", "sample 2"]

    def test_scores_are_those_of_the_library(self, experiment: Path, explain: Callable, capsys):
        from cli.explain import explain as run
        from cli.one_image import Request, open_request
        from sacd.metrics.features import feature_scores

        adapter = Path("adapters/tiny/spatial")
        request = Request(Path("picture.png"), adapter, 2, Path("a.png"), 0, 2, 5.0)
        run(request)
        shown = re.search(r"sample 2\s+(\S+)", capsys.readouterr().out)
        opened = open_request(request)
        inverter, original = opened.inverter, opened.images
        again = inverter.invert(original, 2, steps=2, guidance=5.0, ids=["picture.png"])[0]
        seen = inverter.features(again[1:]), inverter.features(original)
        assert shown is not None
        expected = float(feature_scores(*seen)["cos_median"])
        assert float(shown[1]) == pytest.approx(expected, abs=2e-3)

    @pytest.mark.parametrize("kind", ["png", "pdf"])
    def test_writes_a_figure(self, experiment: Path, explain: Callable, kind: str):
        assert explain(out=f"figure.{kind}")[0] == 0
        magic = {"png": b"\x89PNG", "pdf": b"%PDF"}[kind]
        assert (experiment / f"figure.{kind}").read_bytes().startswith(magic)

    @pytest.mark.parametrize(("option", "value", "least"), [("samples", "1", 2), ("steps", "0", 1)])
    def test_numbers_too_small(
        self, experiment: Path, explain: Callable, option: str, value: str, least: int
    ):
        message = one_message(*explain(**{option: value}))
        assert message.startswith(f"--{option} must be at least {least}")
        assert not (experiment / "page.html").exists()

    def test_a_kind_that_cannot_be_written(self, experiment: Path, explain: Callable):
        message = one_message(*explain(out="page.txt"))
        assert message == "--out page.txt: must end in .html, .png, .pdf.\n"

    def test_a_missing_image(self, experiment: Path, explain: Callable):
        assert one_message(*explain("absent.png")).startswith("absent.png: cannot be read")
