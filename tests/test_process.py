"""Diffusion and rectified flow: one algebra of noise, and all that draws and learns by it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import normal
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SchedulerMixin,
)
from test_adapter_training import pairs_with_a_visible_answer
from torch import Tensor

from sacd.baselines.guidance import FeatureGuidance, guided_latents
from sacd.errors import SacdError
from sacd.optimization import Recipe
from sacd.prior.diffusion import create_scheduler, noised, train_unet
from sacd.prior.prior import Prior
from sacd.prior.process import Flow, flow_scheduler, process_of, scheduler_of
from sacd.sampling.inverter import Inverter
from sacd.sampling.sampler import integrate
from sacd.sampling.unconditional import sample_prior
from sacd.training.adapter import Pairs, train_adapter, uses_condition

CPU = torch.device("cpu")
LATENTS, NOISE = normal(6, 4, 8, 8, seed=1), normal(6, 4, 8, 8, seed=2)
ALL = {
    "v": create_scheduler(2.0),
    "epsilon": DDPMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon"),
    "sample": DDPMScheduler(prediction_type="sample"),
    "flow": flow_scheduler(2.5),
}
each = pytest.mark.parametrize("scheduler", ALL.values(), ids=ALL.keys())


def as_flow(prior: Prior, shift: float = 2.0) -> Prior:
    prior.scheduler = flow_scheduler(shift)
    return prior


class TestAlgebra:
    @each
    @pytest.mark.parametrize("time", [20, 500, 980])
    def test_an_estimate_by_the_target_is_what_was_mixed(
        self, scheduler: SchedulerMixin, time: int
    ):
        process = process_of(scheduler)
        times = torch.full((6,), time)
        noisy = process.noisy(LATENTS, NOISE, times)
        signal, level = process.level(time)
        torch.testing.assert_close(noisy, signal * LATENTS + level * NOISE, atol=1e-5, rtol=1e-5)
        clean, noise = process.estimate(noisy, process.target(LATENTS, NOISE, times), time)
        torch.testing.assert_close(clean, LATENTS, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(noise, NOISE, atol=1e-3, rtol=1e-3)

    def test_flow_is_a_straight_line_and_its_velocity(self):
        process = process_of(flow_scheduler(3.0))
        times = torch.tensor([0.0, 250.0, 500.0, 750.0, 900.0, 1000.0])
        velocity = process.target(LATENTS, NOISE, times)
        torch.testing.assert_close(velocity, NOISE - LATENTS)
        share = (times / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(process.noisy(LATENTS, NOISE, times), LATENTS + share * velocity)

    @pytest.mark.parametrize("shift", [0.5, 1.0, 2.5])
    def test_the_odds_of_flows_times_are_log_normal_about_the_shift(self, shift: float):
        _, times, _ = noised(
            flow_scheduler(shift), torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0)
        )
        logits = torch.logit(times.double() / 1000)
        assert float(logits.median()) == pytest.approx(torch.tensor(shift).log().item(), abs=0.01)
        assert float(logits.std()) == pytest.approx(1.0, abs=0.01)
        ranks = torch.special.ndtr(logits - logits.median()).sort().values
        assert (ranks - torch.arange(4000) / 4000).abs().max() < 0.005

    @each
    def test_descents_lead_from_nearly_all_noise_to_none(self, scheduler: SchedulerMixin):
        steps = process_of(scheduler).descent(5)
        times = [time for time, _ in steps]
        assert len(steps) == 5
        assert times == sorted(times, reverse=True)
        assert 990 < times[0] < 1000
        assert all(below < time for time, below in steps[:-1])
        assert steps[-1][1] is None


class TestScheduler:
    def test_a_flow_survives_being_saved_for_us_and_for_diffusers(self, tmp_path: Path):
        flow_scheduler(2.5).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "scheduler_config.json").read_text())
        assert scheduler_of(config).config == flow_scheduler(2.5).config
        theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)
        assert (theirs.config.shift, len(theirs.timesteps)) == (2.5, 1000)

    def test_ways_to_sample_are_left_behind(self):
        config = {
            "_class_name": "EulerDiscreteScheduler", "beta_start": 0.001, "beta_end": 0.02,
            "beta_schedule": "scaled_linear", "num_train_timesteps": 500,
            "prediction_type": "v_prediction", "use_karras_sigmas": True, "thresholding": True,
            "final_sigmas_type": "sigma_min",
        }  # fmt: skip
        found = scheduler_of(config)
        assert isinstance(found, DDPMScheduler)
        assert len(found.alphas_cumprod) == 500
        assert found.config.prediction_type == "v_prediction"
        assert not found.config.thresholding
        assert not {"use_karras_sigmas", "final_sigmas_type"} & set(found.config)


class TestImport:
    @pytest.fixture
    def folder(self, tmp_path: Path, tiny_prior: Callable) -> Path:
        tiny_prior().save(tmp_path / "prior")
        return tmp_path / "prior"

    @pytest.mark.parametrize(
        "kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler]
    )
    def test_a_flow_is_taken_for_one(self, folder: Path, kind: Any):
        kind(shift=3.0).save_pretrained(folder / "scheduler")
        prior = Prior.from_pretrained(folder)
        assert isinstance(prior.process, Flow)
        assert prior.scheduler.config.shift == 3.0
        prior.save(folder)
        again = Prior.from_pretrained(folder)
        assert isinstance(again.process, Flow)
        assert again.scheduler.config.shift == 3.0

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"shift": 0}, "shift 0 is no number above 0"),
            ({"shift": None}, "shift None is no number above 0"),
            ({"num_train_timesteps": "many"}, "num_train_timesteps is no number"),
            ({"use_dynamic_shifting": True}, "use_dynamic_shifting is not supported"),
            ({"invert_sigmas": True}, "invert_sigmas is not supported"),
        ],
    )
    def test_one_of_another_time_is_refused(self, folder: Path, changes: dict[str, Any], said: str):
        flow_scheduler(2.0).save_pretrained(folder / "scheduler")
        path = folder / "scheduler/scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(SacdError, match=said) as caught:
            Prior.from_pretrained(folder)
        assert str(caught.value).startswith(str(path))


def gaussian(scheduler: SchedulerMixin, deviation: float, mean: float) -> Prior:
    """A prior of data of this deviation about the mean, whose best prediction is known."""
    process = process_of(scheduler)

    def unet(noisy: Tensor, times: Tensor, prompts: Tensor) -> SimpleNamespace:
        signal, level = process.level(float(times[0]))
        pull = signal * deviation**2 / (signal**2 * deviation**2 + level**2)
        clean = mean + pull * (noisy - signal * mean)
        return SimpleNamespace(
            sample=process.target(clean, (noisy - signal * clean) / level, times)
        )

    return Prior(unet, None, scheduler, torch.zeros(1, 1, 1))


class TestFlowSampling:
    @pytest.mark.parametrize("shift", [1.0, 2.5])
    def test_follows_the_line_of_a_gaussian_the_better_the_more_steps(self, shift: float):
        prior = gaussian(flow_scheduler(shift), 0.5, 1.0)

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            return prior.unet(latents, time.expand(len(latents)), None).sample

        errors = [
            float((integrate(prior, predict, NOISE, steps) - (1 + 0.5 * NOISE)).abs().max())
            for steps in (5, 10, 40)
        ]
        assert errors[0] > errors[1]
        assert errors[2] < 0.02  # they begin at 999 of 1000 timesteps of noise, as if at all

    def test_the_network_is_told_the_exact_time(self):
        prior, told = gaussian(flow_scheduler(2.5), 0.5, 1.0), list[float]()

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            told.append(float(time))
            return torch.zeros_like(latents)

        integrate(prior, predict, NOISE, 8)
        share = torch.linspace(1, 1 / 1000, 9).sub(1).neg().flip(0)[:-1]
        expected = 1000 * 2.5 * share / (1 + 1.5 * share)
        assert told == pytest.approx(expected.tolist(), rel=1e-5)
        assert any(time != round(time) for time in told)

    @pytest.mark.parametrize("deviation", [0.3, 1.5])
    def test_what_it_draws_by_itself_has_the_datas_distribution(self, deviation: float):
        prior = gaussian(flow_scheduler(2.0), deviation, 2.0)
        noise = normal(64, 101, 4, 8, 8, seed=4)
        drawn = sample_prior(prior, noise, 1.0, (0.0, 1.0))
        assert float(drawn.mean()) == pytest.approx(2, abs=0.05 * deviation)
        assert float(drawn.std()) == pytest.approx(deviation, rel=0.05)

    def test_guidance_without_a_pull_takes_eulers_steps(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        prior, backbone = as_flow(tiny_prior()), tiny_backbone(1)
        features = backbone(torch.rand(6, 3, 32, 32))[0]
        drawn = guided_latents(
            prior, backbone, features, NOISE, lambda i: NOISE, FeatureGuidance(6, 1e-9, 1)
        )
        latents, steps = NOISE, prior.process.descent(6)
        for time, below in steps:
            predicted = prior.unet(latents, time, prior.prompts(6)).sample
            latents = latents + ((below or 0) - time) / 1000 * predicted
        assert torch.allclose(drawn, latents, atol=1e-4)

    def test_time_travel_puts_back_the_noise_of_the_step(
        self, tiny_prior: Callable, tiny_backbone: Callable
    ):
        prior, backbone = as_flow(tiny_prior()), tiny_backbone(1)
        seen: dict[float, list[float]] = {}
        unet = prior.unet

        def knows_zero(noisy: Tensor, time: float, prompts: Tensor) -> SimpleNamespace:
            seen.setdefault(time, []).append(float(noisy.detach().std()))
            return SimpleNamespace(sample=noisy / (time / 1000) + 0 * unet.conv_in.bias[0])

        prior.unet = knows_zero  # type: ignore[assignment]
        features = backbone(torch.rand(6, 3, 32, 32))[0]
        guided_latents(
            prior, backbone, features, NOISE, lambda i: normal(6, 4, 8, 8, seed=10 + i),
            FeatureGuidance(4, 1e-9, 3),
        )  # fmt: skip
        assert [len(deviations) for deviations in seen.values()] == [3] * 4
        for time, deviations in seen.items():
            assert deviations == pytest.approx([time / 1000] * 3, rel=0.1)


class TestFlowTraining:
    def test_a_unet_learns_the_velocity(self, tmp_path: Path, tiny_prior: Callable):
        prior = as_flow(tiny_prior())
        recipe = Recipe(60, 8, 0.01, 2, "constant", 0.0, 0.5, 1.0, "fp32", 0)
        latents = (0.1 * LATENTS + 2).half()
        trained = train_unet(
            prior.unet, prior.scheduler, prior.null_prompt, latents, recipe, tmp_path, CPU,
            lambda items, total: items,
        )  # fmt: skip
        losses = [entry["loss"] for entry in trained.history]
        assert losses[-1] < 0.7 * losses[0]
        assert losses[-1] < 0.5  # velocities e - x have a variance of 1 about a mean of -2

    @pytest.mark.parametrize("kind", ["controlnet", "lite"])
    def test_an_adapter_learns_to_use_features_and_draws_with_them(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable,
        tiny_backbone: Callable, kind: str,
    ):  # fmt: skip
        prior = as_flow(tiny_prior())
        adapter = tiny_adapter(prior, kind=kind)
        latents, features = pairs_with_a_visible_answer(16)
        recipe = Recipe(80, 8, 0.01, 0, "constant", 0.0, 0.5, 1.0, "fp32", 0)
        trained = train_adapter(
            adapter, prior, Pairs(16, lambda rows: latents[rows], lambda rows: features[rows]),
            (latents, features, features.roll(8, 0)), recipe, 0.1, tmp_path, CPU,
            lambda items, total: items,
        )  # fmt: skip
        assert uses_condition(trained.history)
        inverter = Inverter(prior, adapter, None, CPU, "fp32")
        keys = [(str(row), 0) for row in range(4)]
        drawn = inverter.draw_latents(
            features[:4], keys, steps=6, guidance=2.0, energy_guidance=0.5
        )
        assert bool(drawn.isfinite().all())
        error = (drawn - latents[:4].float()).square().mean()
        assert error < (drawn - latents[:4].float().roll(2, 0)).square().mean()
