"""Every other way to invert features: the methods, and their rules through Snakemake."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import Checkout, normal
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.baselines.decoder import DecoderConfig, FeatureDecoder, train_decoder
from sacd.baselines.guidance import FeatureGuidance, guided_latents
from sacd.baselines.nearest import nearest_rows
from sacd.baselines.pixels import PixelSearch, optimise_pixels, total_variation
from sacd.errors import SacdError
from sacd.features.cache import extract
from sacd.features.distance import relative_distance
from sacd.features.whitening import Whitening, measure_whitening
from sacd.metrics.features import feature_scores
from sacd.optimization import Recipe
from sacd.prior.prior import Prior, latent_shape
from sacd.prior.vae import decode
from sacd.sampling.noise import noise_seed
from sacd.sampling.refinement import Refinement, refine_latents
from sacd.sampling.selection import best_of
from sacd.shards import Shards

CPU = torch.device("cpu")


def random_images(seed: int, count: int) -> Tensor:
    """Smooth random images (N, 3, 32, 32) in [0, 1]."""
    coarse = normal(count, 3, 4, 4, seed=seed)
    return F.interpolate(coarse, (32, 32), mode="bicubic").mul(0.3).sigmoid()


class TestDistance:
    def test_closed_form(self):
        truth = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
        ours = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
        assert relative_distance(ours, truth).tolist() == pytest.approx([1 / 25])
        assert relative_distance(2 * truth, truth).tolist() == pytest.approx([1.0])

    def test_from_no_activation_at_all_is_finite(self):
        nothing = torch.zeros(2, 3, 4, 4)
        assert bool(relative_distance(nothing, nothing).eq(0).all())
        assert bool(relative_distance(nothing + 1, nothing).isfinite().all())
        assert bool(feature_scores(nothing + 1, nothing)["rel_l2"].isfinite().all())

    def test_is_the_square_of_the_score(self):
        ours, truth = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
        scores = feature_scores(ours, truth)["rel_l2"]
        assert torch.allclose(relative_distance(ours, truth), scores.square(), rtol=1e-5)


class TestNearest:
    def test_finds_itself_first_whatever_the_blocks(self):
        features = normal(20, 6, 3, 3)
        rows = nearest_rows(features[[7, 3]], features.split(20), 4)
        assert rows[:, 0].tolist() == [7, 3]
        assert torch.equal(rows, nearest_rows(features[[7, 3]], features.split(6), 4))

    def test_is_the_mean_cosine_by_brute_force(self):
        trained, ours = normal(12, 6, 3, 3), normal(2, 6, 3, 3, seed=1)
        rows = nearest_rows(ours, [trained], 12)
        for query, order in zip(ours, rows, strict=True):
            cosines = feature_scores(trained, query.expand_as(trained))["cos_mean"]
            assert order.tolist() == cosines.argsort(descending=True).tolist()


class TestPixels:
    SEARCH = PixelSearch(steps=60, learning_rate=0.05, variation=0.0, norm=0.0)

    def test_features_come_near_and_images_stay_images(self, tiny_backbone: Callable):
        backbone: Backbone = tiny_backbone(1)
        features = backbone(random_images(0, 2))[0]
        noise = normal(2, 3, 32, 32, seed=1)
        images, losses = optimise_pixels(backbone, features, noise, self.SEARCH)
        started = relative_distance(backbone((0.5 + 0.1 * noise).clamp(0, 1))[0], features)
        assert (losses < 0.2 * started).all()
        assert torch.allclose(losses, relative_distance(backbone(images)[0], features), atol=1e-5)
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1

    def test_rows_do_not_influence_one_another(self, tiny_backbone: Callable):
        backbone = tiny_backbone(1)
        features = backbone(random_images(0, 3))[0]
        noise = normal(3, 3, 32, 32, seed=1)
        search = PixelSearch(steps=5, learning_rate=0.05, variation=0.1, norm=0.1)
        together, _ = optimise_pixels(backbone, features, noise, search)
        alone, _ = optimise_pixels(backbone, features[1:2], noise[1:2], search)
        assert torch.allclose(together[1:2], alone, atol=1e-3)

    @pytest.mark.parametrize("prior", ["variation", "norm"])
    def test_the_image_priors_do_as_they_are_called(self, tiny_backbone: Callable, prior: str):
        backbone = tiny_backbone(1)
        features, noise = backbone(random_images(0, 2))[0], normal(2, 3, 32, 32, seed=1)
        weak, _ = optimise_pixels(backbone, features, noise, self.SEARCH)
        weights = {"variation": 0.0, "norm": 0.0, prior: 10.0}
        search = PixelSearch(steps=60, learning_rate=0.05, **weights)
        strong, _ = optimise_pixels(backbone, features, noise, search)
        measure = {
            "variation": lambda images: float(total_variation(images).mean()),
            "norm": lambda images: float((2 * images - 1).abs().pow(6).mean()),
        }[prior]
        assert measure(strong) < 0.5 * measure(weak)

    def test_total_variation_in_closed_form(self):
        ramp = torch.arange(4.0).expand(1, 3, 4, 4)  # rises by 1 to the right, constant downwards
        assert total_variation(ramp).tolist() == [1.0]
        assert total_variation(ramp.transpose(2, 3)).tolist() == [1.0]
        assert total_variation(torch.ones(1, 3, 4, 4)).tolist() == [0.0]


class TestGuidance:
    def guided(self, prior: Prior, backbone: Backbone, features: Tensor, **changes) -> Tensor:
        guidance = FeatureGuidance(**({"steps": 6, "strength": 0.3, "recurrences": 1} | changes))
        noise = normal(len(features), *latent_shape(prior, 32), seed=5)
        return guided_latents(
            prior,
            backbone,
            features,
            noise,
            lambda i: normal(*noise.shape, seed=50 + i),
            guidance,
        )

    def test_the_pull_brings_features_nearer(self, tiny_prior: Callable, tiny_backbone: Callable):
        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 3))[0]
        distances = {}
        for strength in (1e-6, 0.3):
            drawn = decode(prior.vae, self.guided(prior, backbone, features, strength=strength))
            distances[strength] = relative_distance(backbone(drawn)[0], features).mean()
        assert distances[0.3] < 0.9 * distances[1e-6]

    def test_without_a_pull_it_is_the_prior_by_ddim(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        from diffusers import DDIMScheduler

        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 2))[0]
        ours = self.guided(prior, backbone, features, strength=1e-9)
        scheduler = DDIMScheduler.from_config(prior.scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(6)
        latents = normal(2, *latent_shape(prior, 32), seed=5)
        for time in scheduler.timesteps:
            predicted = prior.unet(latents, time, prior.prompts(2)).sample
            latents = scheduler.step(predicted, time, latents).prev_sample
        assert torch.allclose(ours, latents, atol=1e-4)

    def test_latents_are_not_clipped_as_pixels_are(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 1))[0]
        expected = self.guided(prior, backbone, features)
        prior.scheduler.register_to_config(clip_sample=True)  # where a config says nothing
        assert torch.equal(self.guided(prior, backbone, features), expected)
        assert float(expected.abs().max()) > 1

    def test_each_recurrence_has_noise_of_its_own(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 1))[0]
        asked: list[int] = []

        def fresh(travel: int) -> Tensor:
            asked.append(travel)
            return normal(1, *latent_shape(prior, 32), seed=travel)

        noise = normal(1, *latent_shape(prior, 32), seed=5)
        guidance = FeatureGuidance(steps=3, strength=0.1, recurrences=3)
        guided_latents(prior, backbone, features, noise, fresh, guidance)
        assert asked == [0, 1, 2, 3, 4, 5]

    def test_rows_do_not_influence_one_another(self, tiny_prior: Callable, tiny_backbone: Callable):
        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 2))[0]
        together = self.guided(prior, backbone, features)
        again = self.guided(prior, backbone, features[[0, 0]])
        assert torch.allclose(together[0], again[0], atol=1e-4)
        assert not torch.allclose(together[1], again[1], atol=1e-2)


class TestRefinement:
    def test_features_come_nearer_in_small_steps(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        prior, backbone = tiny_prior(), tiny_backbone(1)
        features = backbone(random_images(0, 2))[0]
        latents = normal(2, *latent_shape(prior, 32), seed=3)
        refined = refine_latents(prior, backbone, latents, features, Refinement(10, 0.03))
        before, after = (
            relative_distance(backbone(decode(prior.vae, values))[0], features)
            for values in (latents, refined)
        )
        assert (after < before).all()
        assert float((refined - latents).abs().max()) <= 10 * 0.03 * 1.5  # Adam's steps are bounded


class TestSelection:
    def test_keeps_the_best_of_each_group(self):
        distances = torch.tensor([[3.0, 1.0, 2.0, 5.0, 4.0, 6.0], [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]])
        assert best_of(distances, 2).tolist() == [[1, 4], [0, 5]]
        assert best_of(distances, 6).tolist() == [[0, 1, 2, 3, 4, 5]] * 2


class TestDecoder:
    RECIPE = Recipe(60, 8, 0.005, 0, "constant", 0.0, 0.9, 1.0, "fp32", 0)

    @pytest.fixture
    def parts(self, tiny_backbone: Callable) -> tuple[Backbone, Tensor, Tensor, FeatureDecoder]:
        backbone = tiny_backbone(1)
        images = (255 * random_images(0, 16)).to(torch.uint8)
        features = extract(backbone, images, CPU)["features"]
        torch.manual_seed(0)
        config = DecoderConfig(
            "tiny", "forward_features", tuple(features.shape[1:]), (8, 8), (8, 8, 16)
        )
        decoder = FeatureDecoder(config, measure_whitening([features], pooled=False))
        return backbone, images, features, decoder

    @pytest.mark.parametrize("weight", [0.0, 1.0])
    def test_learns_its_images(self, tmp_path: Path, parts, weight: float):
        backbone, images, features, decoder = parts
        before = (decoder(features) - images / 255).square().mean()
        trained = train_decoder(
            decoder, backbone, 16, lambda rows: features[rows], lambda rows: images[rows],
            weight, self.RECIPE, tmp_path, CPU, lambda items, total: items,
        )  # fmt: skip
        after = decoder(features)
        assert (after - images / 255).square().mean() < 0.3 * before
        first, last = trained.history[0], trained.history[-1]
        assert last["loss"] == pytest.approx(last["loss_pixels"] + weight * last["loss_features"])
        assert last["loss_features"] < first["loss_features"]
        assert not any(p.requires_grad for p in decoder.parameters())

    def test_comes_back_from_its_folder(self, tmp_path: Path, parts):
        _, _, features, decoder = parts
        decoder.save(tmp_path / "decoder")
        again = FeatureDecoder.from_pretrained(tmp_path / "decoder")
        assert again.config == decoder.config
        assert torch.equal(again.matrix, decoder.matrix)
        assert torch.allclose(again(features), decoder(features), atol=0.02)

    def test_something_else_is_refused(self, tmp_path: Path, parts):
        _, _, _, decoder = parts
        decoder.save(tmp_path / "decoder")
        path = tmp_path / "decoder/config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"widths": [8, 16, 16]}))
        with pytest.raises(SacdError, match="not the weights of a feature decoder"):
            FeatureDecoder.from_pretrained(tmp_path / "decoder")

    def test_features_are_whitened(self, parts):
        _, _, features, decoder = parts
        seen: list[Tensor] = []
        decoder.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        decoder(features)
        whitening = Whitening(decoder.mean, decoder.matrix)
        centred = features.float() - whitening.mean.view(-1, 1, 1)
        expected = torch.einsum("dc,nchw->ndhw", whitening.matrix, centred)
        assert torch.allclose(seen[0], F.interpolate(expected, (8, 8), mode="bilinear"), atol=1e-3)


@pytest.fixture
def place(compared: Checkout) -> Path:
    """The experiment in which every method was run."""
    return compared.experiment


class TestRules:
    """All methods of the fixture, drawn and scored by Snakemake."""

    def samples(self, place: Path, method: str) -> Shards:
        return Shards(place / "samples/tiny_a" / method)

    def test_every_method_stands_in_the_table_with_its_cost(self, compared: Checkout, place: Path):
        table = pd.read_csv(place / "results/tables/main.csv", na_values="n/a")
        rows = table[table.kind == "method"].set_index("method")
        assert list(rows.index) == list(compared.params["methods"])
        assert (rows.seconds_per_sample > 0).all()
        assert (rows.peak_memory_mb > 50).all()
        trained = rows.training_seconds > 0
        assert set(rows.index[~trained]) == {"nearest", "pixels", "guidance"}
        assert rows.loc["decoder", "samples_per_image"] == 1
        assert rows.spread_image.isna().sum() == 1  # of the decoder, which draws one image
        assert (
            rows.drop(columns=["spread_image", "spread_features"]).cos_median.between(-1, 1).all()
        )

    def test_images_and_their_seeds(self, compared: Checkout, place: Path):
        params = compared.params
        for name, method in params["methods"].items():
            shards = self.samples(place, name)
            count = method.get("samples", 1)
            assert shards.shape("images") == (count, 3, 32, 32), name
            assert shards.has("noise_seed") is (method["type"] not in ("nearest", "decoder")), name
        for name, drawn in (("refined", 2), ("guidance", 2), ("best_of", 4), ("pixels", 4)):
            shards = self.samples(place, name)
            for image, seeds in zip(
                shards.ids, shards.read_all("noise_seed").tolist(), strict=True
            ):
                offered = [noise_seed(params["seed"], image, k) for k in range(drawn)]
                assert set(seeds) <= set(offered)
                halves = offered[: drawn // 2], offered[drawn // 2 :]
                assert seeds[0] in halves[0]
                assert seeds[1] in halves[1]

    def test_retrieval_shows_training_images(self, place: Path):
        found = self.samples(place, "nearest").read_all("images").flatten(0, 1)
        known = {
            image.numpy().tobytes()
            for image in Shards(place / "data/images/train").read_all("images")
        }
        assert all(image.numpy().tobytes() in known for image in found)

    def test_refinement_and_selection_bring_features_nearer(self, place: Path):
        scores = {
            name: pd.read_parquet(place / f"scores/tiny_a/{name}.parquet").rel_l2.mean()
            for name in ("spatial", "refined", "best_of")
        }
        assert scores["refined"] < scores["spatial"]
        assert scores["best_of"] < scores["spatial"]

    def test_the_decoder_was_trained_on_what_it_says(self, compared: Checkout, place: Path):
        folder = place / "decoders/tiny_a/decoder"
        record = json.loads((folder / "record.json").read_text())
        assert record["parameters"]["decoders.decoder"] == compared.params["decoders"]["decoder"]
        history = json.loads((folder / "training.json").read_text())["history"]
        assert history[-1]["step"] == compared.params["decoders"]["decoder"]["training"]["steps"]

    def test_a_sweep_tries_every_combination_on_validation_images(
        self, compared: Checkout, place: Path
    ):
        table = pd.read_csv(place / "results/sweeps/guidance.csv")
        sweep = compared.params["sweeps"]["guidance"]
        rows = table[table.method == "spatial"]
        tried = [(guidance, steps) for guidance in (1.0, 2.0) for steps in (2, 3)]
        assert list(zip(rows.guidance, rows.steps, strict=True)) == tried
        assert set(table.backbone) == {"tiny_a"}
        assert (rows.seconds_per_image > 0).all()
        assert rows.cos_median.nunique() == 4  # each was drawn by parameters of its own
        assert (table.cos_median_low <= table.cos_median).all()
        assert table.method.tolist()[4:] == ["autoencoder", "random_image"]
        ceiling, floor = table.cos_median[4:]
        assert floor < ceiling
        record = json.loads((place / "results/sweeps/guidance.record.json").read_text())
        assert record["parameters"]["sweeps.guidance"] == sweep
        log = (place / "logs/sweep_method/guidance.log").read_text()
        assert "draws guidance tiny_a {'guidance': 2.0, 'steps': 3}" in log
        assert (place / "results/sweeps/guidance.png").stat().st_size > 10_000
