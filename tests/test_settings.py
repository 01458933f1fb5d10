"""params.yaml: what is right is taken, and each mistake is named with the way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sacd.errors import SacdError
from stages.settings import load_settings, section

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(
    [
        ROOT / "params.yaml",
        ROOT / "tests/fixture/params.yaml",
        *ROOT.glob("experiments/*/params.yaml"),
    ]
)


@pytest.fixture
def complaint(tmp_path: Path, fixture_params: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    """Call with {dotted path: value or LEFT_OUT}; returns what is said about it."""

    def say(changes: dict[str, Any]) -> str:
        for path, value in changes.items():
            *parents, key = path.split(".")
            place = fixture_params
            for name in parents:
                place = place[name]
            if value is LEFT_OUT:
                del place[key]
            else:
                place[key] = value
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(fixture_params))
        with pytest.raises(SacdError) as caught:
            load_settings(file)
        message = str(caught.value)
        assert message.startswith(str(file))
        return message

    return say


LEFT_OUT = object()
PHOTOS = {"images.source": "photos.tar", "compare.probes": []}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.parent.name)
def test_every_experiments_parameters_are_right(path: Path):
    settings = load_settings(path)
    assert set(settings.compare.backbones) <= set(settings.backbones)


def test_values_and_sections_are_those_of_the_file(fixture_params: dict[str, Any]):
    settings = load_settings(ROOT / "tests/fixture/params.yaml")
    assert settings.methods["spatial"].guidance == 1.5
    assert settings.compare.methods == ["spatial", "pooled", "unconditional"]
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
            ("probes.finder.widht", "width"),
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
            ("images.size", 64.0),
            ("images.size", 8),
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
            ("adapters.spatial.training.ema", 1.0),
            ("methods.spatial.features", True),
            ("methods.nearest.samples", 0),
            ("methods.pixels.norm", -1.0),
            ("methods.refined.refinement.rate", 0),
            ("methods.guidance.recurrences", 0),
            ("methods.spatial.samples", 0),
            ("methods.spatial.guidance", "high"),
            ("probes.finder.kind", "seeker"),
            ("compare.backbones", "tiny_a"),
            ("compare.gap_closed", -0.1),
        ],
    )
    def test_the_key_is_named_with_what_was_found(self, complaint: Callable, path: str, value: Any):
        message = complaint({path: value})
        assert f"  {path}" in message
        found = map(str, value) if isinstance(value, list) else [repr(value)]
        assert any(text in message.split("(found: ")[1] for text in found)

    def test_names_are_those_of_folders(self, complaint: Callable, fixture_params):
        method = fixture_params["methods"]["spatial"]
        assert "methods.a/b" in complaint({"methods.a/b": method})

    def test_no_classes_at_all(self, complaint: Callable):
        assert "images.classes" in complaint({"images.classes": []})

    def test_a_class_named_twice(self, complaint: Callable):
        assert "images.classes" in complaint({"images.classes": ["solid_disc", "solid_disc"]})


class TestImpossibleCombinations:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            (
                {"compare.judge": "tiny_a", "compare.networks": ["tiny_a"]},
                "compare.judge: 'tiny_a' is itself inverted (compare.backbones)",
            ),
            (
                {"images.per_class.train": 2},
                "images.per_class: train must not be less than test",
            ),
            (
                {"backbones.tiny_a.input_size": 48},
                "backbones.tiny_a.input_size: is trained here on images of 32 px",
            ),
            (
                {
                    "methods.shuffled": {"type": "nearest", "samples": 1},
                },
                "methods.shuffled: the name stands for a floor or ceiling",
            ),
            (
                {"compare.methods": ["spatial", "spatial"]},
                "compare.methods: 'spatial' stands twice",
            ),
            (
                {"images.size": 33},
                "images.size: 33 is no multiple of",
            ),
            (
                {"decoders.decoder.widths": [8] * 7, "compare.decoders": ["decoder"]},
                "decoders.decoder.widths: of 7 levels, but images.size 32 is no multiple of 64",
            ),
            (
                {"decoders.decoder.widths": [12]},
                "decoders.decoder.widths.0: Input should be a multiple of 8 (found: 12)",
            ),
            (
                {"prior.autoencoder.options": {"latent_channels": 4}},
                "prior.autoencoder.options.block_out_channels: give its widths",
            ),
            (
                {"compare.networks": ["tiny_a"]},
                "compare.networks: must be compare.backbones and compare.judge",
            ),
            (
                {"images.source": "photos.tar"},
                "probes: need true factors, which only images.source 'shapes' has",
            ),
            (
                {"backbones.tiny_a.training": None},
                "backbones.tiny_a: source is 'train', so backbones.tiny_a.training must be given",
            ),
            (
                {"probes.finder.training": None},
                "probes.finder: source is 'train', so probes.finder.training must be given",
            ),
            (
                {"prior.unet": None},
                "prior: source is 'train', so autoencoder and unet must be given",
            ),
            (
                {"prior.autoencoder": None},
                "prior: source is 'train', so autoencoder and unet must be given",
            ),
            (
                {"methods.spatial.adapter": "spatail"},
                "methods.spatial.adapter: unknown adapter 'spatail'. Did you mean 'spatial'? "
                "Known: pooled, spatial.",
            ),
            (
                {"compare.adapters": ["spatial"]},
                "methods.pooled.adapter: unknown adapter 'pooled'",
            ),
            (
                {"compare.backbones": ["tiny_b"]},
                "compare.backbones: unknown backbone 'tiny_b'. Did you mean 'tiny_a'?",
            ),
            (
                {
                    "methods.decoder.decoder": "decode",
                    "compare.methods": ["spatial", "decoder"],
                    "compare.decoders": ["decoder"],
                    "compare.ranking": [],
                },
                "methods.decoder.decoder: unknown decoder 'decode'. Did you mean 'decoder'?",
            ),
            (
                {"sweeps.guidance.over": {"guidence": [1.0]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: a method of type 'adapter' has no 'guidence' here",
            ),
            (
                {"sweeps.guidance.over": {"steps": [5, 0]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: steps: Input should be greater than 0 (found: 0)",
            ),
            (
                {"sweeps.guidance.method": "lite", "compare.sweeps": ["guidance"]},
                "sweeps.guidance.method: unknown method 'lite'. Known: pooled, spatial",
            ),
            (
                {"compare.sweeps": ["guidanc"]},
                "compare.sweeps: unknown sweep 'guidanc'. Did you mean 'guidance'?",
            ),
            (
                {"compare.concepts": ["nfm"]},
                "compare.concepts: unknown set of concepts 'nfm'. Did you mean 'nmf'?",
            ),
            (
                {"concepts.nmf.columns": ["fill"], "compare.concepts": ["nmf"]},
                "concepts.nmf.columns: unknown key",
            ),
            (
                {"compare.readouts": ["factor"]},
                "compare.readouts: unknown readout 'factor'. Did you mean 'factors'?",
            ),
            (
                {"compare.edits": ["fills"]},
                "edits.fills.concepts: unknown set of concepts 'factors'",
            ),
            (
                {"compare.edits": ["mixture"], "edits.mixture.shares": [0.5, 0.5]},
                "edits.mixture: Value error, shares: a value stands twice",
            ),
            (
                {"edits.fills.strengths": [1.0, 0.0]},
                "edits.fills: Value error, strengths: 0 is always drawn; leave it out",
            ),
            (
                {"compare.edits": ["mixture"], "compare.disentangled": ["mixture"]},
                "compare.disentangled: 'mixture' must be of type 'steering', and compare.readouts",
            ),
            (
                {"compare.decoders": ["decodr"]},
                "compare.decoders: unknown decoder 'decodr'. Did you mean 'decoder'?",
            ),
            (
                {"compare.ranking": ["spatial", "lite"]},
                "compare.ranking: unknown method 'lite'. Known: pooled, spatial, unconditional",
            ),
            (
                {"methods.spatial.type": "adaptor"},
                "methods.spatial: Input tag 'adaptor' found using 'type' does not match any of the "
                "expected tags: 'adapter', 'nearest', 'pixels', 'decoder', 'guidance'",
            ),
            ({"compare.judge": "nobody"}, "compare.judge: unknown backbone 'nobody'"),
            ({"compare.networks": ["tiny_c"]}, "compare.networks: unknown backbone 'tiny_c'"),
            ({"compare.probes": ["seeker"]}, "compare.probes: unknown probe 'seeker'"),
            ({"compare.adapters": ["spatial", "pool"]}, "compare.adapters: unknown adapter 'pool'"),
            (
                {"compare.methods": ["spatial", "pooed"]},
                "compare.methods: unknown method 'pooed'. Did you mean 'pooled'?",
            ),
            (
                {"compare.main_method": "unconditional", "compare.methods": ["spatial"]},
                "compare.main_method: unknown method 'unconditional'. ",
            ),
            (
                {"prior.autoencoder.critic.training": None},
                "prior.autoencoder.critic: source is 'train', so",
            ),
            (
                {"compare.disturbances": ["pgd"], "disturbances.pgd.methods": ["spacial"]},
                "disturbances.pgd.methods: unknown method 'spacial'. Did you mean 'spatial'",
            ),
            (
                {"sweeps.guidance.over": {"steps.x": [1]}, "compare.sweeps": ["guidance"]},
                "sweeps.guidance.over: a method of type 'adapter' has no 'steps.x' here",
            ),
            (
                {"disturbances.blur.levels": [0.0]},
                "disturbances.blur: Value error, level 0 of 'blur' is no number from 0.1 to 64",
            ),
            (
                {"disturbances.blur.kind": "jpeg", "disturbances.blur.levels": [50.5]},
                "level 50.5 of 'jpeg' is no whole number from 1 to 100",
            ),
            (
                {"disturbances.dropout.levels": [0.5, 1.5]},
                "level 1.5 of 'dropout' is no number from 0 to 1",
            ),
            (
                {"disturbances.dropout.kind": "quantisation"},
                "level 0.5 of 'quantisation' is no whole number from 1 to 16",
            ),
            ({"disturbances.pgd.levels": [1.5]}, "level 1.5 of 'pgd' is no whole number"),
            (
                {"disturbances.pgd.kind": "auto", "disturbances.pgd.targeted": True},
                "disturbances.pgd: Value error, 'auto' only leads away from a class",
            ),
            ({"disturbances.unseen.levels": ["shape", "shape"]}, "a level stands twice"),
            (
                {"prior.autoencoder.refinement.critic.training": None},
                "prior.autoencoder.refinement.critic: source is 'train', so",
            ),
            (
                PHOTOS,
                "backbones.tiny_a.training.dense: needs true masks, which only images.source",
            ),
            (
                {
                    **PHOTOS,
                    "backbones.tiny_a.training.dense": False,
                    "backbones.tiny_judge.training.dense": False,
                },
                "prior.autoencoder.critic.training.dense: needs true masks",
            ),
            (
                {
                    **PHOTOS,
                    "backbones.tiny_a.training.dense": False,
                    "backbones.tiny_a.refinement.dense": True,
                },
                "backbones.tiny_a.refinement.dense: needs true masks",
            ),
            (
                {"backbones.tiny_a.source": "weights.safetensors"},
                "backbones.tiny_a.refinement: only a network of source 'train' is refined.",
            ),
        ],
    )
    def test_is_named(self, complaint: Callable, changes: dict[str, Any], expected: str):
        assert expected in complaint(changes)

    def test_a_method_that_is_not_run_may_lack_its_adapter(
        self, tmp_path: Path, fixture_params: dict[str, Any]
    ):
        fixture_params["methods"]["later"] = {
            **fixture_params["methods"]["spatial"],
            "adapter": "x",
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(fixture_params))
        assert load_settings(tmp_path / "params.yaml").methods["later"].adapter == "x"


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
        path.write_text(f"root: .\n{text}\n")
        with pytest.raises(SacdError, match=r"(?s)params\.yaml: not valid YAML: .*line [23]"):
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
