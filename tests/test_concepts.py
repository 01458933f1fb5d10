"""Concepts: directions against closed forms, edits by what they change and leave, effects."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import Checkout, normal, one_message
from safetensors.torch import load_file
from torch import Tensor

from sacd.concepts.directions import (
    Directions,
    activation_vector,
    class_directions,
    locations,
    nonnegative_factors,
    principal_components,
    sparse_atoms,
)
from sacd.concepts.edits import mix, mix_on_sphere, remove, steer, transplant
from sacd.concepts.effects import Manifold, efficacy, off_target
from sacd.concepts.labels import kinds_of, pooled
from sacd.concepts.patches import best_patches
from sacd.errors import SacdError


def mixtures(parts: Tensor, count: int = 600) -> Tensor:
    """Values (count, C) that each hold little of most of the parts (K, C) and much of few."""
    codes = normal(count, len(parts), seed=3).clamp(min=0) ** 3
    return codes @ parts


def best_match(found: Tensor, truth: Tensor) -> Tensor:
    """The highest cosine that any of `found` has with each of `truth`."""
    return (F.normalize(truth, dim=1) @ F.normalize(found, dim=1).T).amax(1)


class TestDirections:
    def test_principal_components_are_those_of_a_known_covariance(self):
        axes = torch.linalg.qr(normal(6, 6)).Q.T
        deviations = torch.tensor([5.0, 3.0, 1.0, 0.3, 0.1, 0.1])
        values = (normal(4000, 6, seed=1) * deviations) @ axes + 7
        found = principal_components(values, 2)
        assert (found @ axes[:2].T).abs().diagonal() == pytest.approx([1, 1], abs=5e-3)
        measured = Directions.measured(["one", "two"], found, values)
        assert measured.scales.tolist() == pytest.approx([5, 3], rel=0.05)
        shares = deviations.square() / deviations.square().sum()
        assert measured.explained.tolist() == pytest.approx(shares[:2].tolist(), rel=0.05)
        assert torch.equal(found, principal_components(values, 2))
        given = Directions.measured(["one", "two"], found, values, torch.tensor([7.0, 8.0]))
        assert given.scales.tolist() == [7, 8]
        assert torch.equal(given.explained, measured.explained)
        assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()

    @pytest.mark.parametrize("find", [nonnegative_factors, sparse_atoms])
    def test_parts_are_found_again(self, find: Callable[..., Tensor]):
        parts = torch.eye(4).repeat_interleave(3, dim=1)  # 4 parts of 3 channels each
        found = find(mixtures(parts), 4, seed=0)
        assert (best_match(found, parts) > 0.9).all()
        assert torch.equal(found, find(mixtures(parts), 4, seed=0))

    def test_negative_values_are_no_obstacle_to_factors(self):
        assert (nonnegative_factors(normal(200, 8), 3, seed=0) >= 0).all()

    def test_class_directions_are_the_weights_of_a_linear_head(self, tiny_backbone: Callable):
        backbone = tiny_backbone()
        weights = backbone.network.fc.weight
        found = class_directions(backbone, normal(3, 12, 4, 4))
        torch.testing.assert_close(found, weights - weights.mean(0), rtol=1e-4, atol=1e-5)

    def test_class_directions_need_a_head(self, tiny_backbone: Callable):
        with pytest.raises(SacdError, match="need a head"):
            class_directions(tiny_backbone(layer="layer2"), normal(3, 8, 4, 4))

    @pytest.mark.parametrize(
        ("kind", "along", "least"), [("boundary", [0.0, 1.0], 0.95), ("pattern", [0.6, 0.8], 0.75)]
    )
    def test_an_activation_vector_points_to_the_examples(
        self, kind: str, along: list[float], least: float
    ):
        """The first channel changes with the concept, but something louder is in it, too."""
        positive = torch.arange(4000) % 4 == 0
        values = normal(4000, 5)
        values[:, 0] *= 4
        values[:, 0] += 3 * positive
        values[:, 2] += 4 * positive
        found, scale, accuracy = activation_vector(values, positive, kind, seed=0)
        assert float(found.norm()) == pytest.approx(1)
        assert float(found[[0, 2]] @ torch.tensor(along)) > 0.98
        assert accuracy > least
        assert scale == pytest.approx(5 if kind == "pattern" else 4, rel=0.1)
        *_, chance = activation_vector(values[:, :2], positive, kind, seed=0)
        assert chance == pytest.approx(0.5, abs=0.15)

    def test_an_activation_vector_needs_both_kinds(self):
        with pytest.raises(SacdError, match="two examples with it"):
            activation_vector(normal(9, 3), torch.arange(9) < 1, "pattern", seed=0)

    def test_locations_are_channel_vectors(self):
        features = normal(2, 3, 4, 5)
        drawn = locations(features, 1000, seed=0)
        vectors = {tuple(vector.tolist()) for vector in features.movedim(1, -1).reshape(-1, 3)}
        assert drawn.shape == (40, 3)
        assert {tuple(vector.tolist()) for vector in drawn} == vectors
        assert torch.equal(locations(features, 7, seed=1), locations(features, 7, seed=1))
        assert not torch.equal(locations(features, 7, seed=1), locations(features, 7, seed=2))

    def test_a_file_of_them_is_read_back(self, tmp_path: Path):
        saved = Directions.measured(["red", "stripes"], normal(2, 5), normal(50, 5, seed=1))
        saved.save(tmp_path / "concepts.safetensors")
        loaded = Directions.load(tmp_path / "concepts.safetensors")
        assert loaded.names == ("red", "stripes")
        for name in ("vectors", "scales", "explained"):
            assert torch.equal(getattr(loaded, name), getattr(saved, name))
        assert loaded.row("stripes") == 1
        with pytest.raises(SacdError, match=r"unknown concept 'stripe'\. Did you mean 'stripes'"):
            loaded.row("stripe")

    @pytest.mark.parametrize("content", [None, b"", b"not a safetensors file"])
    def test_another_file_is_refused_by_name(self, tmp_path: Path, content: bytes | None):
        path = tmp_path / "concepts.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SacdError, match=r"concepts\.safetensors: not a file of concepts"):
            Directions.load(path)


MAPS = normal(2, 6, 4, 4)
OTHERS = normal(2, 6, 4, 4, seed=1)
LEFT = torch.zeros(2, 4, 4, dtype=torch.bool)
LEFT[:, :, :2] = True


class TestEdits:
    def test_steering_moves_along_the_direction_inside_the_mask_alone(self):
        vector = F.normalize(normal(6), dim=0)
        moved = steer(MAPS, vector, 2.5, LEFT) - MAPS
        assert torch.allclose((moved * vector.view(-1, 1, 1)).sum(1), 2.5 * LEFT, atol=1e-5)
        assert float(moved.norm(dim=1).amax()) == pytest.approx(2.5, rel=1e-5)
        assert torch.equal(moved[..., 2:], torch.zeros(2, 6, 4, 2))
        everywhere = steer(MAPS, vector, 2.5) - MAPS
        assert torch.allclose(everywhere.norm(dim=1), torch.full((2, 4, 4), 2.5), atol=1e-5)

    @pytest.mark.parametrize("way", [mix, mix_on_sphere])
    def test_a_mixture_begins_and_ends_with_what_is_mixed(self, way: Callable[..., Tensor]):
        torch.testing.assert_close(way(MAPS, OTHERS, 0.0), MAPS)
        torch.testing.assert_close(way(MAPS, OTHERS, 1.0), OTHERS)
        torch.testing.assert_close(way(MAPS, MAPS, 0.3), MAPS)

    def test_a_mixture_on_the_sphere_turns_evenly_and_keeps_its_length(self):
        first = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        second = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1)
        mixed = mix_on_sphere(first, second, 1 / 3).flatten()
        assert float(mixed.norm()) == pytest.approx(1 + 2 / 3)
        assert float(torch.atan2(mixed[1], mixed[0])) == pytest.approx(torch.pi / 6)

    def test_opposite_and_absent_features_stay_finite(self):
        for other in (-MAPS, torch.zeros_like(MAPS)):
            assert bool(mix_on_sphere(MAPS, other, 0.5).isfinite().all())

    def test_a_transplant_has_two_sources(self):
        made = transplant(MAPS, OTHERS, LEFT)
        assert torch.equal(made[..., :2], OTHERS[..., :2])
        assert torch.equal(made[..., 2:], MAPS[..., 2:])

    def test_what_is_removed_leaves_the_backgrounds_mean(self):
        made = remove(MAPS, LEFT, ~LEFT)
        mean = MAPS[..., 2:].mean((2, 3))
        torch.testing.assert_close(made[..., :2], mean[:, :, None, None].expand(2, 6, 4, 2))
        assert torch.equal(made[..., 2:], MAPS[..., 2:])
        with pytest.raises(ValueError, match="without background"):
            remove(MAPS, LEFT, torch.zeros_like(LEFT))

    def test_what_is_given_stays_as_it_was(self):
        kept = MAPS.clone()
        steer(MAPS, normal(6), 1.0, LEFT)
        transplant(MAPS, OTHERS, LEFT)
        remove(MAPS, LEFT, ~LEFT)
        mix_on_sphere(MAPS, OTHERS, 0.5)
        assert torch.equal(MAPS, kept)


class TestLabels:
    def test_names_are_kinds(self):
        kinds = kinds_of(pd.Series(["disc", "box", "disc"]))
        assert {kind: rows.tolist() for kind, rows in kinds.items()} == {
            "box": [False, True, False], "disc": [True, False, True],
        }  # fmt: skip

    def test_numbers_are_high_or_not(self):
        assert kinds_of(pd.Series([1.0, 5.0, 2.0, 9.0]))["high"].tolist() == [0, 1, 0, 1]

    def test_colours_are_told_by_hue_and_greys_are_left_out(self):
        kinds = kinds_of(pd.Series(["#ff0000", "#0000c0", "#f00010", "#808080", "#00ff00"]))
        assert {kind: rows.nonzero()[0].tolist() for kind, rows in kinds.items()} == {
            "red": [0, 2], "green": [4], "blue": [1],
        }  # fmt: skip

    def test_a_column_of_ids_has_no_kinds(self):
        with pytest.raises(SacdError, match="column 'image_id' has 60 values: no kinds"):
            kinds_of(pd.Series([f"image-{number}" for number in range(60)], name="image_id"))

    def test_parts_of_the_image_are_averaged_by_what_covers_them(self):
        masks = torch.zeros(2, 8, 8, dtype=torch.bool)
        masks[:, :, :4] = True
        torch.testing.assert_close(pooled(MAPS, masks, "object"), MAPS[..., :2].mean((2, 3)))
        torch.testing.assert_close(pooled(MAPS, masks, "background"), MAPS[..., 2:].mean((2, 3)))
        torch.testing.assert_close(pooled(MAPS, None, "image"), MAPS.mean((2, 3)))
        masks[:] = False
        masks[:, :2, :3] = True  # all of one location and half of the next
        expected = (2 * MAPS[..., 0, 0] + MAPS[..., 0, 1]) / 3
        torch.testing.assert_close(pooled(MAPS, masks, "object"), expected)

    def test_parts_need_masks(self):
        with pytest.raises(SacdError, match="'object' needs true masks"):
            pooled(MAPS, None, "object")


class TestPatches:
    def test_the_parts_are_those_around_the_strongest_locations(self):
        features = 0.1 * normal(4, 2, 4, 4)
        features[1, 0, 1, 2], features[3, 0, 2, 2], features[2, 1, 0, 0] = 9.0, 7.0, 8.0
        images = torch.arange(4 * 3 * 16 * 16).view(4, 3, 16, 16).to(torch.uint8)
        found = best_patches(torch.eye(2), features, images, 2)
        assert found.shape == (2, 2, 3, 12, 12)
        assert torch.equal(found[0, 0], images[1, :, 0:12, 4:16])
        assert torch.equal(found[0, 1], images[3, :, 4:16, 4:16])
        assert torch.equal(found[1, 0, :, 4:, 4:], images[2, :, :8, :8])
        assert torch.equal(found[1, 0, :, 0, 4:], images[2, :, 0, :8])  # the edge, repeated

    def test_no_image_is_shown_twice(self):
        features = torch.zeros(3, 1, 2, 2)
        features[0] = 5.0
        images = torch.arange(3).view(3, 1, 1, 1).expand(3, 3, 4, 4).to(torch.uint8)
        found = best_patches(torch.ones(1, 1), features, images, 3)
        assert sorted(found[0, :, 0, 0, 0].tolist()) == [0, 1, 2]


class TestEffects:
    ASKED = steer(torch.zeros(2, 6, 4, 4), F.normalize(normal(6, seed=5), dim=0), 2.0, LEFT)

    @pytest.mark.parametrize("share", [1.0, 0.4, 0.0, -0.5])
    def test_what_came_about_of_an_edit(self, share: float):
        after = MAPS + share * self.ASKED
        assert efficacy(MAPS, after, self.ASKED, LEFT).tolist() == pytest.approx(
            [share] * 2, abs=1e-5
        )
        side = off_target(MAPS, after, self.ASKED, LEFT)
        assert side["off_axis"].tolist() == pytest.approx([0, 0], abs=1e-4)
        assert side["off_region"].tolist() == pytest.approx([0, 0], abs=1e-4)

    def test_what_else_changed_is_told_apart(self):
        across = normal(2, 6, 4, 4, seed=8) * LEFT[:, None]
        unit = F.normalize(self.ASKED, dim=1)
        across = across - (across * unit).sum(1, keepdim=True) * unit
        outside = normal(2, 6, 4, 4, seed=9) * ~LEFT[:, None]
        length = self.ASKED.flatten(1).norm(dim=1)
        after = MAPS + self.ASKED + across + outside
        assert efficacy(MAPS, after, self.ASKED, LEFT).tolist() == pytest.approx([1, 1], abs=1e-4)
        side = off_target(MAPS, after, self.ASKED, LEFT)
        torch.testing.assert_close(side["off_axis"], across.flatten(1).norm(dim=1) / length)
        torch.testing.assert_close(side["off_region"], outside.flatten(1).norm(dim=1) / length)

    def test_where_nothing_was_asked_nothing_is_said(self):
        nowhere = torch.zeros_like(LEFT)
        after = MAPS + self.ASKED
        values = {"efficacy": efficacy(MAPS, after, self.ASKED, nowhere)}
        values |= off_target(MAPS, after, self.ASKED, nowhere)
        assert all(found.isnan().all() for found in values.values())

    def test_real_features_lie_in_the_middle_and_far_ones_off(self):
        manifold = Manifold(normal(2000, 4))
        real = normal(5, 4, 8, 8, seed=1)
        everywhere = torch.ones(5, 8, 8, dtype=torch.bool)
        assert manifold.percentile(real, everywhere).tolist() == pytest.approx([50] * 5, abs=12)
        assert manifold.percentile(real + 30, everywhere).tolist() == [100] * 5
        mixed = torch.where(torch.arange(8) < 4, real + 30, real)
        right = (torch.arange(8) >= 4).expand(5, 8, 8)
        torch.testing.assert_close(
            manifold.percentile(mixed, right), manifold.percentile(real, right)
        )

    def test_a_real_vector_is_not_its_own_neighbour(self):
        values = normal(50, 3)
        usual = Manifold(values).usual
        assert float(usual.min()) > 0
        nearest = torch.cdist(values, values).topk(2, largest=False).values[:, 1]
        torch.testing.assert_close(usual, nearest.sort().values)


class TestRules:
    @pytest.fixture
    def place(self, compared: Checkout) -> Path:
        return compared.experiment

    @pytest.mark.parametrize("name", ["nmf", "classes", "factors"])
    def test_the_table_is_of_the_directions_that_were_found(self, place: Path, name: str):
        table = pd.read_csv(place / f"results/concepts/{name}.csv")
        folder = place / f"concepts/tiny_a/{name}"
        found = Directions.load(folder / "directions.safetensors")
        assert table.concept.tolist() == list(found.names)
        assert table.scale.tolist() == pytest.approx(found.scales.tolist(), rel=1e-4)
        assert torch.allclose(found.vectors.norm(dim=1), torch.ones(len(table)), atol=1e-5)
        assert (table.explained > 0).all()
        patches = load_file(folder / "patches.safetensors")["patches"]
        assert patches.shape[:3] == (len(table), 8, 3)
        picture = place / f"results/concepts/{name}.png"
        assert picture.stat().st_size > 5_000

    def test_labels_name_the_concepts_and_are_told_by_them(self, place: Path):
        table = pd.read_csv(place / "results/concepts/factors.csv").set_index("concept")
        assert list(table.index) == ["fill_solid", "fill_stripes", "radius_high"]
        assert table.accuracy["fill_solid"] > 0.6
        pair = Directions.load(place / "concepts/tiny_a/factors/directions.safetensors").vectors[:2]
        assert float(pair[0] @ pair[1]) == pytest.approx(-1, abs=1e-3)  # one or the other

    def test_classes_have_the_manifests_names(self, place: Path):
        table = pd.read_csv(place / "results/concepts/classes.csv")
        known = set(pd.read_parquet(place / "data/manifest.parquet").class_name)
        assert {name.removeprefix("class_") for name in table.concept} <= known
        assert table.accuracy.isna().all()

    def test_the_record_says_what_was_looked_for(self, compared: Checkout, place: Path):
        record = json.loads((place / "concepts/tiny_a/nmf/record.json").read_text())
        assert record["parameters"]["concepts.nmf"] == compared.params["concepts"]["nmf"]

    def look_for(
        self, concepts: str, change: dict, compared: Checkout, folder: Path
    ) -> subprocess.CompletedProcess:
        """Run the stage on a section that was changed."""
        mine = compared.copy(folder / "repository")

        def ask(params: dict) -> None:
            params["concepts"][concepts] |= change
            # Of which the settings would complain first.
            params["compare"] |= {"edits": [], "disentangled": []}

        mine.edit(ask)
        return mine.stage(
            "find_concepts", "--backbone", "tiny_a", "--concepts", concepts, check=False
        )

    def test_an_unknown_column_is_named(self, compared: Checkout, tmp_path: Path):
        done = self.look_for("factors", {"columns": ["fil"]}, compared, tmp_path)
        message = one_message(done.returncode, done.stdout)
        assert message.startswith("concepts.factors.columns: unknown column of the manifest 'fil'")
        assert "Did you mean 'fill'?" in message

    @pytest.mark.parametrize(
        ("concepts", "change", "said"),
        [
            ("nmf", {"count": 500}, "concepts.nmf.count: 500 asked for, but features have "),
            (
                "factors", {"columns": ["class_name"], "images": 2},
                "concepts.factors.columns: 'class_name_",
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_be_found_is_named_by_its_key(
        self, compared: Checkout, tmp_path: Path, concepts: str, change: dict, said: str
    ):
        done = self.look_for(concepts, change, compared, tmp_path)
        assert one_message(done.returncode, done.stdout.splitlines()[-1] + "\n").startswith(said)

    def test_few_images_give_few_patches(self, compared: Checkout, tmp_path: Path):
        mine = compared.copy(tmp_path / "repository")
        mine.edit(lambda params: params["concepts"]["nmf"].update(images=3))
        mine.stage("find_concepts", "--backbone", "tiny_a", "--concepts", "nmf")
        patches = load_file(mine.experiment / "concepts/tiny_a/nmf/patches.safetensors")["patches"]
        assert patches.shape[:2] == (mine.params["concepts"]["nmf"]["count"], 3)
