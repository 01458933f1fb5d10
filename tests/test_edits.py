"""Edits of features: their regions, what tells of them, and the rules that draw them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, Checkout, normal, one_message
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from pipeline.edits import Subjects, edits_of, labelled
from pipeline.eyes import read_parts
from pipeline.inputs import others_of, stratified_rows
from pipeline.settings.concepts import EditSettings
from pipeline.settings.load import load_settings
from sacd.backbones.backbone import Backbone
from sacd.concepts.directions import Directions
from sacd.concepts.edits import transplant
from sacd.concepts.probe import Probe, fit_factor, pool_parts
from sacd.concepts.regions import active_region, centre, object_region, right_half
from sacd.errors import SacdError
from sacd.metrics.features import feature_scores
from sacd.shards import Shards


class TestRegions:
    def test_an_object_has_the_locations_that_it_covers_by_half(self):
        masks = torch.zeros(3, 8, 8, dtype=torch.bool)
        masks[0, 2:6, 1:5] = True  # all of the inner ones in height, half of those in width
        masks[1, 0, 0] = True  # less than half of any
        found = object_region(masks, (4, 4))
        assert found[0].nonzero().tolist() == [[r, c] for r in (1, 2) for c in (0, 1, 2)]
        assert found[1].nonzero().tolist() == [[0, 0]]
        assert not found[2].any()

    def test_a_concept_is_active_where_features_lie_further_along_it(self):
        features = torch.zeros(2, 2, 3, 3)
        features[0, 1, 0, :2] = 5.0
        features[1, 1, 2, 2] = 1.0
        ones = torch.ones(1)
        concept = Directions(("up",), torch.tensor([[0.0, 1.0]]), 2 * ones, ones, ones)
        found = active_region(features, concept, 0)  # above 2 + 1
        assert found[0].nonzero().tolist() == [[0, 0], [0, 1]]
        assert found[1].nonzero().tolist() == [[2, 2]]  # nowhere above: the furthest

    def test_fixed_regions(self):
        assert right_half(1, (2, 4))[0].tolist() == [[False, False, True, True]] * 2
        middle = centre(1, (4, 4))[0]
        assert middle.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
        assert centre(1, (3, 7))[0].nonzero().tolist() == [[1, 2], [1, 3], [1, 4]]


class TestReadout:
    def fitted(self, kinds: int) -> tuple[Probe, Tensor, Tensor, float]:
        labels = torch.arange(300) % kinds
        values = normal(300, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1])  # the loudest says nothing
        values[:, 1:] += 4 * F.one_hot(labels, 5)
        members = {f"kind{k}": (labels == k).numpy() for k in range(kinds)}
        weights, biases, accuracy = fit_factor(values, members, seed=0)
        return Probe({"f": tuple(members)}, {"f": (weights, biases)}), values, labels, accuracy

    @pytest.mark.parametrize("kinds", [2, 4])
    def test_tells_kinds_that_a_plane_parts(self, kinds: int):
        probe, values, labels, accuracy = self.fitted(kinds)
        told = probe.read(values)["f"]
        right = np.mean([name == f"kind{k}" for name, k in zip(told, labels, strict=True)])
        assert right > 0.95
        assert accuracy > 0.95
        assert torch.allclose(probe(values)["f"].sum(1), torch.ones(300))

    def test_accuracy_is_chance_where_nothing_tells(self):
        members = {name: np.arange(400) % 4 == k for k, name in enumerate("abcd")}
        *_, accuracy = fit_factor(normal(400, 5), members, seed=0)
        assert accuracy == pytest.approx(0.25, abs=0.07)

    def test_rows_of_no_kind_are_left_out(self):
        values, told = normal(90, 3), np.arange(90) % 3
        values[:, 0] += torch.tensor(np.where(told == 1, 6.0, 0.0))
        values[told == 2] = 1e6
        weights, _, accuracy = fit_factor(values, {"a": told == 0, "b": told == 1}, seed=0)
        assert accuracy > 0.95
        assert float(weights[1, 0]) > 0.2

    @pytest.mark.parametrize(
        "members", [{"a": np.ones(20, bool)}, {"a": np.arange(20) < 3, "b": np.arange(20) >= 3}]
    )
    def test_needs_examples_of_two_kinds(self, members: dict[str, np.ndarray]):
        with pytest.raises(SacdError, match="two kinds or more, and 5 images of each"):
            fit_factor(normal(20, 3), members, seed=0)

    def test_a_file_is_read_back(self, tmp_path: Path):
        probe, values, _, _ = self.fitted(3)
        probe.save(tmp_path / "probe.safetensors")
        again = Probe.load(tmp_path / "probe.safetensors")
        assert again.kinds == probe.kinds
        assert torch.equal(again(values)["f"], probe(values)["f"])
        (tmp_path / "probe.safetensors").write_bytes(b"something else")
        with pytest.raises(SacdError, match=r"probe\.safetensors: not a file of a probe"):
            Probe.load(tmp_path / "probe.safetensors")

    def test_parts_are_the_object_and_the_rest(self):
        features = normal(2, 3, 4, 4)
        found = torch.zeros(2, 8, 8)
        found[:, :, :4] = 1.0
        left, right = features[..., :2].mean((2, 3)), features[..., 2:].mean((2, 3))
        torch.testing.assert_close(pool_parts(features, found), torch.cat([left, right], 1))

    def test_of_photographs_the_whole_image_is_read(self):
        features = normal(2, 3, 4, 4)
        images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
        means, colors, rest = features.mean((2, 3)), torch.full((2, 3), 0.5), torch.zeros(2, 3)
        read = read_parts(features, images, segmenter=None)
        torch.testing.assert_close(read, torch.cat([means, rest, colors, rest], 1))


def test_a_direction_is_of_the_column_that_names_it(tmp_path: Path, fixture_params: dict):
    fixture_params["concepts"]["factors"]["columns"] = ["fill", "fill_period"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(fixture_params))
    settings = load_settings(tmp_path / "params.yaml")
    assert labelled(settings, "factors", "fill_stripes") == ("fill", "stripes")
    assert labelled(settings, "factors", "fill_period_high") == ("fill_period", "high")
    assert labelled(settings, "nmf", "nmf_1") == (None, "nmf_1")


class TestWhatIsAsked:
    """Feature maps of two images on a 4x4 grid, and the truth about their objects."""

    OWN = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 3, 4, 4)
    # The first image's object fills the left half; the second's all but the lowest quarter.
    PLACES = torch.arange(8)
    MASKS = torch.stack([PLACES[None].expand(8, 8) < 4, PLACES[:, None].expand(8, 8) < 6])

    def edited(self, edit: dict[str, Any], masks: Tensor = MASKS) -> list[list[list[float]]]:
        chosen = TypeAdapter(EditSettings).validate_python(
            {"images": 2, "samples": 1, "methods": ["spatial"], **edit}
        )
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        subjects = Subjects(["a", "b"], images, self.OWN, {}, masks, torch.tensor([1, 0]), {})
        settings = load_settings(ROOT / "tests/fixture/params.yaml")
        before, after = edits_of(settings, chosen, "tiny_a", subjects)
        assert (before.level, after.level) == (0, 1)
        assert torch.equal(before.features, self.OWN)
        return after.features[:, 0].tolist()

    def test_a_union_adds_the_others_object_where_ones_own_is_not(self):
        first, second = self.edited({"type": "union"})
        assert first == [[1, 1, 2, 2]] * 3 + [[1, 1, 1, 1]]
        assert second == [[2, 2, 2, 2]] * 3 + [[1, 1, 2, 2]]

    def test_a_transplant_takes_all_of_the_others_object(self):
        first, second = self.edited({"type": "transplant", "region": "object"})
        assert first == [[2, 2, 2, 2]] * 3 + [[1, 1, 1, 1]]
        assert second == [[1, 1, 2, 2]] * 4

    def test_a_removal_needs_something_to_fill_the_place_with(self):
        removal = {"type": "removal", "region": "object"}
        assert self.edited(removal) == self.OWN[:, 0].tolist()
        with pytest.raises(SacdError, match="a removal of 'object' leaves nothing of a 4x4 map"):
            self.edited(removal, torch.ones(2, 8, 8, dtype=torch.bool))


class TestRules:
    @pytest.fixture
    def place(self, compared: Checkout, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(compared.experiment)
        return compared.experiment

    def scores(self, place: Path, edit: str) -> pd.DataFrame:
        return pd.read_parquet(place / f"edits/tiny_a/{edit}/scores.parquet")

    def test_before_the_edit_stand_the_methods_own_samples(self, place: Path):
        samples = Shards(place / "samples/tiny_a/spatial")
        rows = stratified_rows(samples, 4)
        shown = load_file(place / "edits/tiny_a/fills/examples.safetensors")["spatial"]
        first = samples.read("images", [rows[0]])[0, 0]
        assert torch.equal(shown[0, 0], first)  # fill_stripes at level 0
        assert torch.equal(shown[3, 0], first)  # radius_high at level 0
        assert not torch.equal(shown[2, 0], first)

    def test_scores_are_of_what_was_asked_and_drawn(self, place: Path):
        shown = load_file(place / "edits/tiny_a/transplant/examples.safetensors")
        test = Shards(place / "features/tiny_a/test")
        rows = stratified_rows(test, 4)
        maps = test.read("features", rows).float()
        table = pd.read_parquet("data/manifest.parquet").query("split == 'test'").iloc[rows]
        bits = [np.unpackbits(np.frombuffer(row, np.uint8)) for row in table["mask"]]
        masks = torch.tensor(np.stack(bits)[:, : 32 * 32]).reshape(-1, 32, 32).bool()
        region = object_region(masks, maps.shape[-2:])
        others = others_of("test", table.image_id)
        asked = transplant(maps, maps[others], region[others])
        backbone = Backbone.from_pretrained(place / "models/backbones/tiny_a")
        with torch.no_grad():
            seen = backbone(shown["spatial"][1, :1].float() / 255)[0]
        expected = float(feature_scores(seen, asked[:1])["cos_median"])
        found = self.scores(place, "transplant").query("level == 1 and sample == 0")
        assert found.cos_of_asked.iloc[0] == pytest.approx(expected, abs=1e-4)
        assert found.image_id.tolist() == table.image_id.tolist()
        assert found.wanted_fill.tolist() == table.fill.iloc[others.numpy()].tolist()

    def test_a_mixtures_other_end_is_its_full_response(self, place: Path):
        table = self.scores(place, "mixture")
        assert table.response[table.level == 1].tolist() == pytest.approx([1] * 8)
        assert table.response[table.level == 0].isna().all()
        assert table.response[table.level == 0.5].between(-3, 3).all()
        shown = pd.read_csv("results/edits/mixture.csv")
        assert shown.level.tolist() == [0, 0.5, 1]

    def test_nothing_is_asked_before_the_edit(self, place: Path):
        table = self.scores(place, "fills")
        before = table[table.level == 0]
        assert before.efficacy.isna().all()
        assert table[table.level != 0].efficacy.notna().all()
        for _, rows in before.groupby(["method", "image_id", "sample"]):
            assert rows.cos_of_asked.nunique() == rows.judge_p_own.nunique() == 1

    def test_steering_far_leaves_the_manifold(self, place: Path):
        levels = self.scores(place, "parts").groupby("level").plausible.mean()
        assert levels[3.0] > levels[0.0]

    def test_probabilities_of_what_is_wanted_are_known_from_labels_alone(self, place: Path):
        assert "p_wanted" not in self.scores(place, "parts")
        fills = self.scores(place, "fills")
        stripes = fills[fills.what == "fill_stripes"]
        assert stripes.judge_p_wanted.between(0, 1).all()
        assert set(stripes.wanted_fill) == {"stripes"}
        assert "p_wanted" not in self.scores(place, "removal")

    def test_union_takes_what_the_own_object_leaves(self, place: Path):
        table = self.scores(place, "union")
        assert (table.own_fill != table.wanted_fill).all()  # of two classes, the other

    def test_the_table_says_how_far_steering_works(self, place: Path):
        lines = Path("results/edits/fills.md").read_text().splitlines()
        assert lines[0].startswith("| backbone | concept | method | effective (50%) | plausible |")
        assert [line.split(" | ")[1:3] for line in lines[2:]] == [
            ["fill_stripes", "spatial"],
            ["radius_high", "spatial"],
        ]

    def test_a_decoder_answers_with_one_image(self, place: Path):
        drawn = self.scores(place, "parts").groupby("method")["sample"].nunique()
        assert drawn.to_dict() == {"decoder": 1, "pooled": 2, "spatial": 2}

    def test_what_else_changed_is_told_of_what_readouts_tell(self, place: Path):
        table = pd.read_csv("results/disentanglement/fills.csv")
        accuracy = json.loads(Path("models/probes/factors/accuracy.json").read_text())
        assert set(table.asked) == {"fill", "other noise (floor)"}  # no probe tells the radius
        assert set(table.factor) == {"fill"}
        assert (table.probe_accuracy == accuracy["fill"]["accuracy"]).all()
        unedited = table[(table.level == 0) & (table.asked == "fill")]
        assert (unedited.changed == 0).all()

    def test_figures_have_content(self, place: Path):
        for edit in ("fills", "parts", "mixture", "transplant", "removal", "union"):
            for name in (f"{edit}.png", f"{edit}_examples.png"):
                with Image.open(f"results/edits/{name}") as picture:
                    assert np.asarray(picture.convert("L")).std() > 10

    def test_an_unknown_direction_is_named(self, compared: Checkout, tmp_path: Path):
        mine = compared.copy(tmp_path / "repository")
        mine.edit(lambda params: params["edits"]["fills"].update(directions=["fill_stripe"]))
        done = mine.stage("draw_edits", "--backbone", "tiny_a", "--edit", "fills", check=False)
        message = one_message(done.returncode, done.stdout)
        assert message.startswith("unknown concept 'fill_stripe'. Did you mean 'fill_stripes'?")
