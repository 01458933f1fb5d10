"""The commands of `sacd` that edit features and draw what they would look like."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import normal, one_message
from PIL import Image

from cli.main import create_parser
from sacd.backbones.backbone import Backbone
from sacd.concepts.directions import Directions
from sacd.concepts.edits import mix_on_sphere, steer, transplant
from sacd.concepts.regions import active_region

# What a command that draws is told besides.
QUICK = ("--adapter", "adapters/tiny/spatial", "--steps", "2", "--samples", "2")


def composed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    """The words of what `sacd compose` prints, in the current folder, line by line."""
    from cli.main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["sacd", "compose", *arguments, "--out", "out.png", *QUICK])
        main()
    return [line.split() for line in capsys.readouterr().out.splitlines()]


class TestCommands:
    @pytest.fixture
    def experiment(self, tiny_experiment: Path) -> Path:
        """Models, concepts and pictures; the current folder."""
        found = Directions.measured(["red", "stripes"], normal(2, 12), normal(50, 12, seed=1))
        (tiny_experiment / "concepts/tiny/mine").mkdir(parents=True)
        found.save(tiny_experiment / "concepts/tiny/mine/directions.safetensors")
        for name, sigma in (("a", 80), ("b", 30)):
            Image.effect_noise((40, 40), sigma).save(tiny_experiment / f"{name}.png")
        mask = Image.new("L", (32, 32))
        mask.paste(255, (0, 0, 16, 32))
        mask.save(tiny_experiment / "mask.png")
        return tiny_experiment

    @pytest.fixture
    def call(self, experiment: Path, call_stage: Callable) -> Callable[..., tuple[int, str]]:
        def call(command: str, *arguments: str) -> tuple[int, str]:
            rest = [] if command == "learn" else [*QUICK, "--out", "out.png"]
            return call_stage("cli.main", command, *arguments, *rest)

        return call

    def test_steering_writes_a_strip_and_says_what_landed(self, call: Callable, capsys):
        from cli.steer import SteerRequest, steer_image

        status, stderr = call("steer", "a.png", "--concept", "stripes", "--strengths", "-2", "3")
        assert status == 0, stderr
        with Image.open("out.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10
        adapter, out = Path("adapters/tiny/spatial"), Path("again.png")
        steer_image(
            SteerRequest(
                Path("a.png"), adapter, 2, out, 0, 2, None, "stripes", None, [-2.0, 3.0], "image",
                None,
            )
        )  # fmt: skip
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["strength", "efficacy", "off_axis", "off_region"]
        assert [float(line.split()[0]) for line in lines[1:3]] == [-2, 3]
        assert out.read_bytes() == Path("out.png").read_bytes()

    def test_steering_is_that_of_the_library(self, call: Callable, capsys):
        from cli.one_image import square
        from cli.steer import SteerRequest, steer_image
        from sacd.concepts.effects import efficacy
        from sacd.sampling.inverter import Inverter

        adapter = Path("adapters/tiny/spatial")
        steer_image(
            SteerRequest(
                Path("a.png"), adapter, 2, Path("out.png"), 0, 2, 1.0, "red", None, [4.0], "image",
                None,
            )
        )  # fmt: skip
        shown = float(capsys.readouterr().out.splitlines()[1].split()[1])
        inverter = Inverter.from_pretrained(adapter)
        image = square(Path("a.png"), Path("a.png").read_bytes(), 32)[None]
        maps = inverter.features(image)
        found = Directions.load(Path("concepts/tiny/mine/directions.safetensors"))
        moved = steer(maps, found.vectors[0], 4.0 * float(found.scales[0]))
        keys = [("a.png", 0), ("a.png", 1)]
        before, after = (
            inverter.features(inverter.sample(m.expand(2, -1, -1, -1), keys, steps=2, guidance=1.0))
            for m in (maps, moved)
        )
        region = torch.ones(2, *maps.shape[-2:], dtype=torch.bool)
        expected = float(efficacy(before, after, (moved - maps).expand_as(after), region).mean())
        assert shown == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("options", [["--where", "active"], ["--mask", "mask.png"]])
    def test_steering_is_bound_to_its_region(self, call: Callable, monkeypatch, options: list[str]):
        import cli.steer

        given = []

        def spy(features: torch.Tensor, vector, step: float, region: torch.Tensor) -> torch.Tensor:
            given.append((features, region))
            return steer(features, vector, step, region)

        monkeypatch.setattr(cli.steer, "steer", spy)
        status, stderr = call("steer", "a.png", "--concept", "red", *options)
        assert status == 0, stderr
        found = Directions.load(Path("concepts/tiny/mine/directions.safetensors"))
        features, region = given[0]
        left = torch.arange(features.shape[-1]).expand(region.shape) < features.shape[-1] / 2
        expected = left if "--mask" in options else active_region(features, found, 0)
        assert 0 < int(expected.sum()) < expected.numel()
        assert torch.equal(region, expected)

    def test_composing_goes_along_the_path_that_is_named(
        self, experiment: Path, capsys, monkeypatch
    ):
        from cli.compose import WAYS

        taken = []

        def spy(first: torch.Tensor, second: torch.Tensor, share: float) -> torch.Tensor:
            taken.append(share)
            return mix_on_sphere(first, second, share)

        monkeypatch.setitem(WAYS, "sphere", spy)
        composed(capsys, "a.png", "b.png", "--weights", "0.5", "--path", "line")
        assert not taken
        composed(capsys, "a.png", "b.png", "--weights", "0.5", "--path", "sphere")
        assert taken == [0.5]

    def test_a_transplant_takes_what_is_white(self, experiment: Path, capsys, monkeypatch):
        import cli.compose

        given = []

        def spy(own: torch.Tensor, other: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
            given.append(region)
            return transplant(own, other, region)

        monkeypatch.setattr(cli.compose, "transplant", spy)
        composed(capsys, "a.png", "b.png", "--mask", "mask.png")
        (region,) = given
        side = region.shape[-1]
        assert region[0].tolist() == [[column < side / 2 for column in range(side)]] * side

    def test_a_concept_of_several_sets_wants_to_know_which(self, call: Callable, experiment: Path):
        other = experiment / "concepts/tiny/yours/directions.safetensors"
        other.parent.mkdir()
        Directions.measured(["red", "blue"], normal(2, 12), normal(50, 12)).save(other)
        message = one_message(*call("steer", "a.png", "--concept", "red"))
        assert message.startswith("several sets of concepts have a 'red'; say which by --concepts:")
        assert "tiny/mine/directions.safetensors" in message
        assert "tiny/yours/directions.safetensors" in message
        for options in (["red", "--concepts", str(other)], ["blue"]):
            status, stderr = call("steer", "a.png", "--concept", *options)
            assert status == 0, stderr

    def test_a_guidance_below_zero(self, call: Callable):
        message = one_message(*call("steer", "a.png", "--concept", "red", "--guidance", "-3"))
        assert message == "--guidance must not be less than 0.\n"

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--strengths", "nan"], "argument --strengths: nan is not finite"),
            (["--guidance", "inf"], "argument --guidance: inf is not finite"),
            (["--seed", "-1"], "argument --seed: -1 is not from 0 to 4294967295"),
        ],
    )
    def test_numbers_that_mean_nothing(self, capsys, options: list[str], expected: str):
        given = ["steer", "a.png", "--concept", "red", "--out", "out.png", *QUICK, *options]
        with pytest.raises(SystemExit):
            create_parser().parse_args(given)
        assert capsys.readouterr().err.splitlines()[-1] == f"sacd steer: error: {expected}"

    def test_a_concept_that_there_is_not(self, call: Callable):
        message = one_message(*call("steer", "a.png", "--concept", "stripe"))
        assert message == (
            "unknown concept 'stripe'. Did you mean 'stripes'? Known: red, stripes.\n"
        )

    def test_an_experiment_without_concepts(self, call: Callable, experiment: Path):
        (experiment / "concepts/tiny/mine/directions.safetensors").unlink()
        message = one_message(*call("steer", "a.png", "--concept", "red"))
        assert "no concepts here" in message
        assert "sacd learn" in message

    def test_a_concept_of_another_backbone(self, call: Callable, experiment: Path):
        other = Directions.measured(["red"], normal(1, 5), normal(50, 5))
        other.save(experiment / "other.safetensors")
        message = one_message(
            *call("steer", "a.png", "--concept", "red", "--concepts", "other.safetensors")
        )
        assert "is of 5 channels, but features of 'tiny' have 12" in message

    def test_a_mask_of_another_size(self, call: Callable, experiment: Path):
        Image.new("L", (64, 32), 255).save(experiment / "wide.png")
        message = one_message(*call("steer", "a.png", "--concept", "red", "--mask", "wide.png"))
        assert message == "--mask wide.png: is 64x32 px, but images here are 32x32.\n"

    def test_a_black_mask(self, call: Callable, experiment: Path):
        Image.new("L", (32, 32)).save(experiment / "black.png")
        message = one_message(*call("compose", "a.png", "b.png", "--mask", "black.png"))
        assert message == "--mask black.png: nothing in it is white.\n"

    @pytest.mark.parametrize(
        ("options", "titles"),
        [(["--weights", "0.5", "0"], ["0", "0.5"]), (["--mask", "mask.png"], ["as", "transplant"])],
    )
    def test_composing(self, experiment: Path, capsys, options: list[str], titles: list[str]):
        header, *rows = composed(capsys, "a.png", "b.png", *options)
        assert header == [
            "composed", "cos_asked", "cos_first", "cos_second", "p_first", "p_second",
        ]  # fmt: skip
        assert [row[0] for row in rows[:2]] == titles
        with Image.open("out.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 10

    def test_an_image_composed_with_itself_stays_itself(self, experiment: Path, capsys):
        _, none, half, full = composed(capsys, "a.png", "a.png", "--weights", "0", "0.5", "1")[:4]
        assert none[1:] == half[1:] == full[1:]
        _, _, cos_first, cos_second, p_first, p_second = none
        assert (cos_first, p_first) == (cos_second, p_second)

    def test_a_share_beyond_one(self, call: Callable):
        message = one_message(*call("compose", "a.png", "b.png", "--weights", "1.5"))
        assert message == "--weights must be from 0 to 1.\n"

    def test_a_file_type_that_is_not_written(self, experiment: Path, call_stage: Callable):
        message = one_message(
            *call_stage(
                "cli.main", "compose", "a.png", "b.png", "--adapter", "nowhere", "--out", "x.txt"
            )
        )
        assert message == "--out x.txt: must end in .png, .pdf.\n"

    def test_a_concept_of_ones_own(self, experiment: Path, call: Callable):
        for kind, sigma in (("loud", 120), ("quiet", 5)):
            (experiment / kind).mkdir()
            for number in range(6):
                Image.effect_noise((40, 40), sigma).save(experiment / f"{kind}/{number}.png")
        (experiment / "loud/notes.txt").write_text("no image")
        status, stderr = call(
            "learn", "loud", "--positive", "loud", "--negative", "quiet",
            "--adapter", "adapters/tiny/spatial", "--out", "loud.safetensors",
        )  # fmt: skip
        assert status == 0, stderr
        found = Directions.load(experiment / "loud.safetensors")
        assert found.names == ("loud",)
        backbone = Backbone.from_pretrained(experiment / "models/backbones/tiny")

        def along(kind: str) -> float:
            pixels = [np.asarray(Image.open(f"{kind}/{n}.png").resize((32, 32))) for n in range(6)]
            images = torch.tensor(np.stack(pixels))[:, None].expand(-1, 3, -1, -1).float() / 255
            with torch.no_grad():
                return float((backbone(images)[0].mean((2, 3)) @ found.vectors[0]).mean())

        assert along("loud") > along("quiet")
        status, stderr = call(
            "steer", "a.png", "--concept", "loud", "--concepts", "loud.safetensors"
        )
        assert status == 0, stderr

    @pytest.mark.parametrize("folder", ["absent", "empty"])
    def test_a_folder_without_images(self, experiment: Path, call: Callable, folder: str):
        (experiment / "empty").mkdir()
        message = one_message(
            *call(
                "learn", "loud", "--positive", folder, "--negative", ".",
                "--adapter", "adapters/tiny/spatial", "--out", "loud.safetensors",
            )
        )  # fmt: skip
        assert message.startswith(f"{folder}: ")
        assert not (experiment / "loud.safetensors").exists()
