"""params.yaml: what is right is taken, and each mistake is named with the way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LEFT_OUT

from pipeline.settings.load import load_settings, section
from sacd.errors import SacdError

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(
    [
        ROOT / "params.yaml",
        ROOT / "tests/fixture/params.yaml",
        *ROOT.glob("experiments/*/params.yaml"),
    ]
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.parent.name)
def test_every_experiments_parameters_are_right(path: Path):
    settings = load_settings(path)
    assert set(settings.compare.backbones) <= set(settings.backbones)


def test_values_and_sections_are_those_of_the_file(fixture_params: dict[str, Any]):
    settings = load_settings(ROOT / "tests/fixture/params.yaml")
    assert settings.methods["spatial"].guidance == 1.5
    assert settings.compare.methods[:3] == ["spatial", "pooled", "unconditional"]
    assert section(settings, "images.per_class") == fixture_params["images"]["per_class"]
    assert section(settings, "seed") == 3


def test_sections_are_the_whole_of_the_file():
    settings = load_settings(ROOT / "tests/fixture/params.yaml")
    raw = yaml.safe_load((ROOT / "tests/fixture/params.yaml").read_text())
    assert settings.model_dump() == raw  # no default fills anything in


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("sed", "seed"),
            ("images.clases", "classes"),
            ("images.per_class.vall", "val"),
            ("backbones.tiny_a.trainig", "training"),
            ("backbones.tiny_a.training.lerning_rate", "learning_rate"),
            ("prior.autoencoder.critics", "critic"),
            ("prior.autoencoder.critic.layers", "layer"),
            ("prior.unet.option", "options"),
            ("segmenters.finder.widht", "width"),
            ("adapters.spatial.hiden", "hidden"),
            ("decoders.decoder.width", "widths"),
            ("methods.spatial.guidence", "guidance"),
            ("methods.refined.refinement.step", "steps"),
            ("methods.pixels.variations", "variation"),
            ("methods.guidance.strenght", "strength"),
            ("compare.judges", "judge"),
        ],
    )
    def test_the_key_and_the_nearest_right_one_are_named(
        self, complaint: Callable, wrong: str, right: str
    ):
        message = complaint({wrong: 1})
        assert f"{wrong}: unknown key; did you mean '{right}'? Keys here: " in message

    def test_all_keys_of_the_place_are_listed(self, complaint: Callable):
        message = complaint({"images.per_class.zoo": 1})
        assert "images.per_class.zoo: unknown key; Keys here: test, train, val." in message

    def test_every_mistake_is_told_at_once(self, complaint: Callable):
        message = complaint({"sed": 1, "images.size": "64", "compare.judges": "x"})
        assert len(message.splitlines()) == 4
        for key in ("sed:", "images.size:", "compare.judges:"):
            assert key in message

    def test_a_missing_key_is_named(self, complaint: Callable):
        assert "methods.spatial.steps: Field required" in complaint(
            {"methods.spatial.steps": LEFT_OUT}
        )
        assert "seed: Field required" in complaint({"seed": LEFT_OUT})


class TestWrongValues:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("seed", "1"),
            ("seed", -1),
            ("seed", 2**32),
            ("images.size", 64.0),
            ("images.size", 31),
            ("images.classes", "most"),
            ("images.classes", 0),
            ("images.per_class.val", 0),
            ("images.max_skipped", 1.5),
            ("backbones.tiny_a.training.precision", "fp16"),
            ("backbones.tiny_a.training.schedule", "linear"),
            ("backbones.tiny_a.training.learning_rate", 0),
            ("backbones.tiny_a.mean", [0.5, 0.5]),
            ("backbones.tiny_a.std", [0.25]),
            ("backbones.tiny_a.std", [0.25, 0.0, 0.25]),
            ("adapters.spatial.type", "controlnett"),
            ("adapters.spatial.conditioning", "local"),
            ("adapters.spatial.condition_dropout", 1.0),
            ("adapters.spatial.training.ema", 1.0),
            ("methods.spatial.features", True),
            ("methods.nearest.samples", 0),
            ("methods.pixels.norm", -1.0),
            ("methods.refined.refinement.rate", 0),
            ("methods.guidance.recurrences", 0),
            ("methods.guidance.strength", float("inf")),
            ("methods.spatial.samples", 0),
            ("methods.spatial.guidance", "high"),
            ("methods.spatial.guidance_interval", [0.6, 0.2]),
            ("compare.backbones", "tiny_a"),
            ("compare.backbones", []),
            ("compare.gap_closed", -0.1),
        ],
    )
    def test_the_key_is_named_with_what_was_found(self, complaint: Callable, path: str, value: Any):
        message = complaint({path: value})
        assert f"  {path}" in message
        found = map(str, value) if isinstance(value, list) and value else [repr(value)]
        assert any(text in message.split("(found: ")[1] for text in found)

    def test_names_are_those_of_folders(self, complaint: Callable, fixture_params):
        method = fixture_params["methods"]["spatial"]
        assert "methods.a/b" in complaint({"methods.a/b": method})

    def test_no_classes_at_all(self, complaint: Callable):
        assert "images.classes" in complaint({"images.classes": []})

    def test_a_class_named_twice(self, complaint: Callable):
        assert "images.classes" in complaint({"images.classes": ["solid_disc", "solid_disc"]})


class TestFile:
    def test_a_missing_file_says_where_to_run(self, tmp_path: Path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SacdError) as caught:
            load_settings()
        assert str(caught.value).startswith(
            f"{tmp_path / 'params.yaml'}: no such file; run in an exp"
        )

    @pytest.mark.parametrize("text", ["seed: [1, 2", "a: b: c", "\tseed: 1", "seed: *nothing"])
    def test_invalid_yaml_names_file_and_line(self, tmp_path: Path, text: str):
        path = tmp_path / "params.yaml"
        path.write_text(f"images: {{}}\n{text}\n")
        with pytest.raises(SacdError, match=r"(?s)params\.yaml: not valid YAML: .*line [23]"):
            load_settings(path)

    def test_a_key_that_stands_twice_is_named(self, tmp_path: Path):
        path = tmp_path / "params.yaml"
        path.write_text(
            "seed: 1\nimages: &some\n  size: 64\n  size: 32\nmore: {<<: *some, size: 1}\n"
        )
        with pytest.raises(SacdError, match=r"(?s)the key 'size' stands twice.*line 4"):
            load_settings(path)

    def test_a_folder_is_no_file(self, tmp_path: Path):
        with pytest.raises(SacdError, match=r"cannot be read \(Is a directory\)"):
            load_settings(tmp_path)

    def test_a_day_that_there_is_not(self, tmp_path: Path):
        path = tmp_path / "params.yaml"
        path.write_text("seed: 2024-99-99\n")
        with pytest.raises(SacdError, match=r"params\.yaml: not valid YAML: month must be"):
            load_settings(path)

    @pytest.mark.parametrize("text", ["", "just text", "- a\n- list\n"])
    def test_a_file_that_is_no_mapping_is_named(self, tmp_path: Path, text: str):
        path = tmp_path / "params.yaml"
        path.write_text(text)
        with pytest.raises(SacdError, match=r"(?s)params\.yaml:.*valid dictionary"):
            load_settings(path)

    def test_bytes_that_are_no_text_are_named(self, tmp_path: Path):
        path = tmp_path / "params.yaml"
        path.write_bytes(b"seed: \xff\xfe\n")
        with pytest.raises(SacdError, match=r"params\.yaml: "):
            load_settings(path)


class TestHostileFiles:
    """Small files that would cost hours or all memory are refused at once, in one sentence."""

    def said(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "params.yaml"
        path.write_text(text)
        with pytest.raises(SacdError) as caught:
            load_settings(path)
        assert str(caught.value).startswith(str(path))
        return str(caught.value)

    def test_aliases_that_explode(self, tmp_path: Path):
        lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        assert "stands for" in self.said(tmp_path, "\n".join(lines))

    def test_deep_nesting(self, tmp_path: Path):
        assert "nested too deeply" in self.said(tmp_path, "[" * 5000 + "]" * 5000)

    def test_a_file_that_holds_itself(self, tmp_path: Path):
        assert "holds itself" in self.said(tmp_path, "a: &a [*a]")


@pytest.mark.parametrize("text", ["2e-3", "2E-3", "2.0e-3", "0.002", "+2e-3", "20e-4"])
def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path, text: str):
    path = tmp_path / "params.yaml"
    whole = (ROOT / "params.yaml").read_text()
    assert whole.count("learning_rate: 0.002") == 1
    path.write_text(whole.replace("learning_rate: 0.002", f"learning_rate: {text}"))
    assert load_settings(path).adapters["spatial"].training.learning_rate == 0.002


@pytest.mark.parametrize(
    "name", ["a; touch pwned", "$(touch pwned)", "a\n", "../up", "A", "", "a b", "ä", "x" * 65]
)
@pytest.mark.parametrize("section", ["backbones", "methods", "adapters", "edits", "sweeps"])
def test_names_are_of_small_letters_digits_and_underlines(
    fixture_params: dict, tmp_path: Path, section: str, name: str
):
    values = next(iter(fixture_params[section].values()))
    fixture_params[section][name] = values
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(fixture_params))
    with pytest.raises(SacdError, match=rf"  {section}\."):
        load_settings(path)
