"""Training an adapter, and the check that it uses its condition."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import normal
from torch import Tensor

from sacd.adapters.adapter import compile_steps
from sacd.adapters.registry import ADAPTERS
from sacd.numerics import numerics
from sacd.optimization import Recipe, step_generator
from sacd.prior.diffusion import noised
from sacd.training.adapter import (
    CHECK_REPEATS,
    NOISE_EXPONENT,
    Pairs,
    condition_check,
    train_adapter,
    uses_condition,
)

CPU = torch.device("cpu")
RECIPE = Recipe(8, 4, 0.01, 0, "constant", 0.0, 0.5, 1.0, "fp32", 0)


def check(adapter, prior, latents: Tensor, features: Tensor) -> dict[str, float]:
    """The check, with features shuffled by half."""
    shuffled = features.roll(len(features) // 2, 0)
    return condition_check(adapter, prior, latents, features, shuffled, RECIPE, CPU)


def pairs_with_a_visible_answer(count: int) -> tuple[Tensor, Tensor]:
    """Latents and features, where the first feature channels are the latents' own averages."""
    levels = normal(count, 4, 1, 1)
    features = torch.zeros(count, 12, 4, 4)
    features[:, :4] = levels
    return levels.expand(count, 4, 8, 8).contiguous(), features


class TestTraining:
    def run(self, prior, adapter, work: Path, recipe: Recipe = RECIPE, drop: float = 0.2):
        latents, features = pairs_with_a_visible_answer(16)
        pairs = Pairs(16, lambda rows: latents[rows], lambda rows: features[rows].half())
        return train_adapter(
            adapter, prior, pairs, (latents, features, features.roll(8, 0)), recipe, drop, work,
            CPU, lambda items, total: items,
        )  # fmt: skip

    @pytest.mark.parametrize("kind", sorted(ADAPTERS))
    def test_learns_to_use_its_condition_while_the_prior_stays(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, kind: str
    ):
        prior = tiny_prior()
        before = {name: value.clone() for name, value in prior.unet.state_dict().items()}
        recipe = replace(RECIPE, steps=80, batch=8, learning_rate=0.01)
        trained = self.run(prior, tiny_adapter(prior, kind=kind), tmp_path, recipe)
        last = trained.history[-1]
        assert last["loss_true"] < 0.93 * last["loss_shuffled"]
        assert last["loss_true"] < last["loss_null"]
        assert uses_condition(trained.history)
        for name, value in prior.unet.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_ends_with_the_averaged_weights_frozen(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior)
        trained = self.run(prior, adapter, tmp_path)
        for name, parameter in adapter.named_parameters():
            assert torch.equal(parameter, trained.weights[name]), name
            assert not parameter.requires_grad

    def test_compiled_learns_the_same(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, graphs: Callable
    ):
        learned = self.run(tiny_prior(), tiny_adapter(tiny_prior()), tmp_path).weights
        prior, adapter = tiny_prior(), tiny_adapter(tiny_prior())
        compile_steps(prior.unet, adapter)
        compiled = self.run(prior, adapter, tmp_path)
        for name, weights in compiled.weights.items():
            assert torch.allclose(weights, learned[name], atol=1e-5), name
        assert graphs() >= 4  # of the U-Net and of the copy, in training and in the check

    def test_an_untrained_adapter_does_not_use_its_condition(
        self, tiny_prior: Callable, tiny_adapter: Callable
    ):
        prior = tiny_prior()
        latents, features = pairs_with_a_visible_answer(4)
        losses = check(tiny_adapter(prior), prior, latents, features)
        assert losses["loss_true"] == losses["loss_shuffled"] == losses["loss_null"]
        assert losses["margin"] == losses["margin_error"] == 0
        assert not uses_condition([losses])

    def test_a_difference_within_its_error_is_no_use_of_the_condition(self):
        assert uses_condition([{"margin": 2.1e-3, "margin_error": 1e-3}])
        assert not uses_condition([{"margin": 1.9e-3, "margin_error": 1e-3}])
        assert not uses_condition([{"margin": -3e-3, "margin_error": 1e-3}])

    def test_the_margin_is_a_mean_over_images(self, tiny_prior: Callable, tiny_adapter: Callable):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, noise=0.1)
        latents, features = pairs_with_a_visible_answer(4)
        losses = check(adapter, prior, latents, features)
        margins = torch.zeros(4)
        for repeat in range(CHECK_REPEATS):
            generator = step_generator(RECIPE.seed, 2**31 + repeat)
            noisy, times, target = noised(prior.scheduler, latents, generator, NOISE_EXPONENT)
            for sign, given in ((1, features.roll(2, 0)), (-1, features)):
                with torch.no_grad(), numerics(CPU, RECIPE.precision):
                    hint = adapter.hint(given)
                    drawn = adapter(prior.unet, noisy, times, prior.prompts(4), hint)
                error = (drawn.float() - target).square().mean((1, 2, 3))
                margins += sign * error / CHECK_REPEATS
        expected = margins.double().numpy()
        assert losses["margin"] == pytest.approx(expected.mean(), abs=1e-6)
        assert losses["margin_error"] == pytest.approx(expected.std(ddof=1) / 2, rel=1e-3)

    def test_the_check_is_the_same_every_time(self, tiny_prior: Callable, tiny_adapter: Callable):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, noise=0.1)
        latents, features = pairs_with_a_visible_answer(4)
        checks = [check(adapter, prior, latents, features) for _ in range(2)]
        assert checks[0] == checks[1]
        assert len(set(checks[0].values())) == 5

    @pytest.mark.parametrize(("drop", "touched"), [(0.0, False), (1.0, True)])
    def test_dropping_trains_the_null_feature(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, drop, touched
    ):
        prior = tiny_prior()
        adapter = tiny_adapter(prior, noise=0.1)
        before = adapter.encoder.null.clone()
        self.run(prior, adapter, tmp_path, drop=drop)
        assert (not torch.equal(adapter.encoder.null, before)) is touched
