"""Disturbed inputs: what each disturbance does, and the rules that test methods by them."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Checkout, normal
from PIL import Image
from safetensors.torch import load_file

from pipeline.settings.sections import Corruption
from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError
from sacd.figures.layers import METRICS, plot_layers
from sacd.figures.robustness import PANELS, plot_examples, plot_robustness
from sacd.images import shapes
from sacd.robustness.attacks import attack
from sacd.robustness.corruptions import CORRUPTIONS
from sacd.robustness.features import (
    ChannelRange,
    add_feature_noise,
    drop_channels,
    quantise,
)

PRETRAINED = Path(__file__).parent.parent / "pretrained"


def scenes(count: int) -> torch.Tensor:
    drawn = [shapes.render(shapes.draw(5, "test", 3 * i), 64)[0] for i in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def noise_for(values: torch.Tensor) -> torch.Tensor:
    return normal(*values.shape, seed=1)


class TestCorruptions:
    def test_params_may_name_all_of_them(self):
        assert set(get_args(Corruption.model_fields["kind"].annotation)) == set(CORRUPTIONS)

    @pytest.mark.parametrize(
        ("kind", "mild", "strong"),
        [
            ("noise", 0.05, 0.2), ("blur", 0.5, 2.0), ("jpeg", 80, 10), ("contrast", 0.8, 0.2),
            ("brightness", 0.8, 0.3), ("pixelate", 2, 8),
        ],
    )  # fmt: skip
    def test_a_stronger_one_changes_more(self, kind: str, mild: float, strong: float):
        images = scenes(4)
        changes = []
        for strength in (mild, strong):
            changed = CORRUPTIONS[kind](images, strength, noise_for(images))
            assert (changed.dtype, changed.shape) == (torch.uint8, images.shape)
            changes.append(float((changed.float() - images).abs().mean()))
        assert 0 < changes[0] < 0.7 * changes[1]

    def test_a_blur_wider_than_the_image_is_none_the_less_one(self):
        images = scenes(2)
        blurred = CORRUPTIONS["blur"](images, 40.0, noise_for(images))
        assert float(blurred.float().std((2, 3)).max()) < 0.2 * float(
            images.float().std((2, 3)).max()
        )

    def test_noise_has_the_deviation_asked_for(self):
        grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
        changed = CORRUPTIONS["noise"](grey, 0.1, noise_for(grey)).float()
        assert float(changed.std()) == pytest.approx(25.5, rel=0.05)

    def test_blocks_have_the_mean_of_their_pixels(self):
        images = scenes(1)
        blocks = CORRUPTIONS["pixelate"](images, 8, noise_for(images)).float()
        assert torch.equal(blocks[..., :8, :8], blocks[..., :1, :1].expand(-1, -1, 8, 8))
        assert torch.allclose(
            blocks[0, :, 0, 0], images[0, :, :8, :8].float().mean((1, 2)), atol=0.5
        )

    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_an_image_is_changed_alike_in_every_batch(self, kind: str):
        images = scenes(3)
        noise = noise_for(images)
        together = CORRUPTIONS[kind](images, 2.0, noise)
        assert torch.equal(together[1:2], CORRUPTIONS[kind](images[1:2], 2.0, noise[1:2]))


class TestFeatures:
    def test_noise_is_measured_in_deviations_of_the_channel(self):
        usual = ChannelRange(torch.tensor([1.0, 10.0]), torch.zeros(2), torch.ones(2))
        features = torch.zeros(1, 2, 64, 64)
        moved = add_feature_noise(features, 0.5, noise_for(features), usual)
        assert moved.std((0, 2, 3)).tolist() == pytest.approx([0.5, 5.0], rel=0.05)

    def test_dropout_takes_its_share_of_whole_channels(self):
        features = torch.ones(6, 8, 3, 3)
        kept = drop_channels(features, 0.25, noise_for(features))
        assert (kept.sum((2, 3)) == 0).sum(1).tolist() == [2] * 6
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert len({tuple(row) for row in (kept[:, :, 0, 0] == 0).tolist()}) > 1

    def test_quantised_values_lie_on_the_levels_and_nearby(self):
        features = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 7 - 3
        usual = ChannelRange.of(features)
        for bits in (1, 3, 8):
            rounded = quantise(features, bits, usual)
            assert len(rounded[:, 0].unique()) <= 2**bits
            step = (usual.largest - usual.least).view(-1, 1, 1) / (2**bits - 1)
            assert bool(((rounded - features).abs() <= step / 2 + 1e-5).all())


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pretrained(PRETRAINED / "backbones/resnet")


class TestAttacks:
    def classes(self, backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return backbone(images.float() / 255)[1].argmax(1)

    @pytest.mark.parametrize("kind", ["pgd", "auto"])
    def test_leads_away_from_the_class_within_its_budget(self, backbone: Backbone, kind: str):
        images = scenes(6)
        before = self.classes(backbone, images)
        attacked = attack(backbone, images, before, kind, False, 8, 5, 0)
        assert int((attacked.int() - images.int()).abs().max()) == 8
        assert float((self.classes(backbone, attacked) != before).float().mean()) >= 0.5

    def test_leads_to_the_class_asked_for(self, backbone: Backbone):
        images = scenes(6)
        wanted = (self.classes(backbone, images) + 4) % 20
        attacked = attack(backbone, images, wanted, "pgd", True, 16, 10, 0)
        assert float((self.classes(backbone, attacked) == wanted).float().mean()) >= 0.5

    def test_gives_the_same_images_again(self, backbone: Backbone):
        images = scenes(2)
        before = self.classes(backbone, images)
        np.random.seed(7)
        first = attack(backbone, images, before, "auto", False, 4, 3, 0)
        drawn = np.random.rand()
        again = attack(backbone, images, before, "auto", False, 4, 3, 0)
        assert torch.equal(first, again)
        np.random.seed(7)
        assert np.random.rand() == drawn  # whoever draws beside it is left alone

    def test_the_ensemble_leads_to_no_class(self, backbone: Backbone):
        with pytest.raises(SacdError, match="'auto' only leads away"):
            attack(backbone, scenes(1), torch.zeros(1).long(), "auto", True, 4, 2, 0)

    def test_the_ensemble_needs_three_classes(self, tiny_backbone: Callable):
        with pytest.raises(SacdError, match="'auto' needs three classes, and there are 2"):
            attack(
                tiny_backbone(classes=2), scenes(1), torch.zeros(1).long(), "auto", False, 4, 2, 0
            )

    def test_needs_a_head(self, tiny_backbone: Callable):
        headless = tiny_backbone()
        headless.has_head = False
        with pytest.raises(SacdError, match="no head"):
            attack(headless, scenes(1), torch.zeros(1).long(), "pgd", False, 4, 2, 0)


class TestUnseenScenes:
    @pytest.mark.parametrize("factor", shapes.UNSEEN)
    def test_differ_from_the_scene_in_that_factor_alone(self, factor: str):
        scene, unseen = shapes.draw(1, "test", 11), shapes.draw_unseen(1, 11, factor)
        changed = {k for k, v in vars(scene).items() if v != getattr(unseen, k)}
        assert changed == ({factor, "second_background"} if factor == "background" else {factor})
        pixels = [shapes.render(each, 64)[0].astype(int) for each in (scene, unseen)]
        assert abs(pixels[0] - pixels[1]).mean() > 2

    def test_have_values_that_no_class_has(self):
        assert not {*shapes.UNSEEN["shape"]} & {*shapes.SHAPES}
        assert not {*shapes.UNSEEN["fill"]} & {*shapes.FILLS}


class TestClassify:
    @pytest.mark.parametrize("name", ["resnet", "convnext", "swin"])
    def test_says_of_features_what_the_network_says_of_the_image(self, name: str):
        backbone = Backbone.from_pretrained(PRETRAINED / "backbones" / name)
        with torch.no_grad():
            features, logits = backbone(scenes(2).float() / 255)
            assert torch.allclose(backbone.classify(features), logits, atol=1e-5)


class TestRules:
    def scores(self, compared: Checkout, disturbance: str) -> pd.DataFrame:
        return pd.read_parquet(
            compared.experiment / f"robustness/tiny_a/{disturbance}/scores.parquet"
        )

    @pytest.mark.parametrize(
        ("disturbance", "levels"),
        [
            ("blur", ["none", "0.5", "2"]), ("pgd", ["none", "8"]), ("dropout", ["none", "0.5"]),
            ("unseen", ["none", "shape", "fill", "background"]),
        ],
    )  # fmt: skip
    def test_every_level_method_and_image_is_scored(
        self, compared: Checkout, disturbance: str, levels: list[str]
    ):
        scores = self.scores(compared, disturbance)
        assert list(scores.level.unique()) == levels
        assert list(scores.method.unique()) == [
            "original", "input", "autoencoder", "spatial", "shuffled",
        ]  # fmt: skip
        assert (scores.groupby(["level", "method"]).image_id.nunique() == 4).all()
        itself = scores.method.isin(["original", "input"])
        undisturbed = scores[(scores.level == "none") & itself]
        assert undisturbed.cos_of_features.min() > 0.999
        assert (undisturbed.judge_class_of_image == 1).all()

    def test_what_is_disturbed_is_what_reconstructions_are_drawn_from(self, compared: Checkout):
        blurred = self.scores(compared, "blur").groupby(["level", "method"]).cos_of_features.mean()
        assert blurred["2", "input"] > 0.999
        assert blurred["2", "original"] < 0.999
        dropped = self.scores(compared, "dropout")
        given = dropped[dropped.level == "0.5"].groupby("method").cos_of_features.mean()
        assert given["input"] < 0.99  # features were disturbed and the image was not

    def test_what_an_attack_leads_to_is_another_class(self, compared: Checkout):
        scores = self.scores(compared, "pgd").set_index(["level", "method"])
        assert (scores.class_of_target["none", "input"] == 0).all()
        given = scores.loc["8", "input"]
        assert ((given.class_of_target == 1) <= (given.class_of_image == 0)).all()
        assert "class_of_target" not in self.scores(compared, "blur")

    def test_the_floor_is_what_was_drawn_for_others(self, compared: Checkout):
        pictures = load_file(compared.experiment / "robustness/tiny_a/blur/examples.safetensors")
        assert set(pictures) == {"original", "input", "autoencoder", "spatial"}
        means = self.scores(compared, "blur").groupby(["level", "method"]).cos_of_features.mean()
        assert means["none", "shuffled"] < means["none", "autoencoder"]

    def test_the_table_is_the_mean_of_the_scores(self, compared: Checkout):
        table = pd.read_csv(compared.experiment / "results/robustness/blur.csv")
        means = self.scores(compared, "blur").groupby(["level", "method"]).cos_of_image.mean()
        for row in table.to_dict("records"):
            level = "none" if row["level"] == "none" else f"{float(row['level']):g}"
            assert row["cos_of_image"] == pytest.approx(means[level, row["method"]], rel=1e-3)
            assert row["cos_of_image_low"] <= row["cos_of_image"] <= row["cos_of_image_high"]

    def test_pictures_are_kept_of_every_level(self, compared: Checkout):
        pictures = load_file(compared.experiment / "robustness/tiny_a/unseen/examples.safetensors")
        assert {name: tuple(p.shape) for name, p in pictures.items()} == {
            name: (4, 3, 32, 32) for name in ("original", "input", "autoencoder", "spatial")
        }
        assert not torch.equal(pictures["input"][0], pictures["input"][1])

    @pytest.mark.parametrize("name", ["robustness/blur", "robustness/blur_examples"])
    def test_figures_are_drawn_for_screen_and_print(self, compared: Checkout, name: str):
        figure = compared.experiment / f"results/{name}"
        with Image.open(figure.with_suffix(".png")) as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 100
        assert figure.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


class TestFigures:
    def table(self) -> pd.DataFrame:
        rows = [
            {"backbone": "a", "level": level, "method": method, **values}
            for level in ("none", "1", "2")
            for method, values in (
                ("original", self.scores(1.0)),
                ("input", self.scores(1.0)),
                ("spatial", self.scores(0.6)),
                ("shuffled", self.scores(0.1)),
            )
        ]
        return pd.DataFrame(rows)

    def scores(self, value: float) -> dict[str, float]:
        metrics = [name for _, *pair in PANELS for name in pair]
        return {
            metric + end: value + shift
            for metric in metrics
            for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1))
        }

    def test_a_solid_and_a_dashed_line_stand_for_each_method(self):
        figure = plot_robustness(self.table(), "blur")
        assert len(figure.axes) == len(PANELS)
        for axis in figure.axes:
            styles = [(line.get_linestyle(), line.get_ydata()[0]) for line in axis.lines]
            assert styles == [(style, score) for score in (1.0, 0.6, 0.1) for style in ("-", "--")]
            assert len(axis.collections) == 4  # bands, which the floor has none of
            assert [label.get_text() for label in axis.get_xticklabels()] == ["none", "1", "2"]
        entries = [text.get_text() for text in figure.legends[0].get_texts()]
        curves = ["input", "spatial", "shuffled"]
        assert entries == [*curves, "as the features say", "as the image was"]

    def test_scores_that_nobody_has_get_no_panel(self):
        table = self.table().assign(class_of_image=np.nan, judge_class_of_image=np.nan)
        assert len(plot_robustness(table, "blur").axes) == 1

    def test_examples_stand_in_a_block_for_each_backbone(self):
        shades = {"none": 0.2, "8": 0.8}
        grey = {level: np.full((8, 8, 3), shade) for level, shade in shades.items()}
        figure = plot_examples({name: {"original": grey, "spatial": grey} for name in "ab"})
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ["a\nnone", "8", "b\nnone", "8", "", "", "", ""]
        assert [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes] == [0.2, 0.8] * 4

    def test_a_layers_curve_lies_between_floor_and_ceiling(self):
        rows = [
            {"backbone": backbone, "method": method}
            | {m + end: value for m in METRICS for end in ("", "_low", "_high")}
            for backbone in ("deep", "shallow")
            for method, value in (("spatial", 0.5), ("autoencoder", 0.9), ("shuffled", 0.1))
        ]
        strip = {name: np.zeros((8, 8, 3)) for name in ("original", "shallow", "deep")}
        figure = plot_layers(pd.DataFrame(rows), ["shallow", "deep"], "spatial", [strip])
        curves, pictures = figure.axes[: len(METRICS)], figure.axes[len(METRICS) :]
        for axis, metric in zip(curves, METRICS, strict=True):
            # Another image's samples are spread as one's own are: that is no floor.
            floor = [] if metric == "spread_image" else [0.1]
            assert [line.get_ydata()[0] for line in axis.lines] == [0.5, 0.9, *floor]
            assert list(axis.lines[0].get_xdata()) == ["shallow", "deep"]
        assert [axis.get_title() for axis in pictures] == list(strip)
