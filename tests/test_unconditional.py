"""What the prior draws by itself: its distribution, and guidance by smoothed attention."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from conftest import normal
from torch import Tensor

from sacd.prior.attention import smoothed_attention
from sacd.prior.diffusion import create_scheduler
from sacd.prior.prior import Prior
from sacd.sampling.sampler import integrate
from sacd.sampling.unconditional import sample_prior


class TestDistribution:
    @pytest.mark.parametrize("deviation", [0.3, 1.5])
    def test_is_that_of_the_data(self, deviation: float):
        # Data of a deviation about 2, whose best prediction is known in closed form.
        scheduler = create_scheduler(1.0)

        def unet(noisy: Tensor, times: Tensor, prompts: Tensor) -> SimpleNamespace:
            squared = scheduler.alphas_cumprod[times.long()].view(-1, 1, 1, 1)
            alpha, sigma = squared.sqrt(), (1 - squared).sqrt()
            pull = alpha * deviation**2 / (squared * deviation**2 + 1 - squared)
            clean = 2 + pull * (noisy - 2 * alpha)
            return SimpleNamespace(sample=alpha * (noisy - alpha * clean) / sigma - sigma * clean)

        def draw(noise: Tensor) -> Tensor:
            return sample_prior(
                Prior(unet, None, scheduler, torch.zeros(1, 1, 1)), noise, 1.0, (0.0, 1.0)
            )

        noise = normal(64, 101, 4, 8, 8, seed=4)
        drawn = draw(noise)
        assert float(drawn.mean()) == pytest.approx(2, abs=0.05 * deviation)
        assert float(drawn.std()) == pytest.approx(deviation, rel=0.05)
        # The noise at the start, of which the signal-to-noise ratio is nothing, is forgotten.
        again = draw(torch.cat([normal(64, 1, 4, 8, 8, seed=5), noise[:, 1:]], 1))
        assert float((again - drawn).square().mean().sqrt()) < 0.1 * deviation
        assert torch.equal(draw(noise[:3]), drawn[:3])


class TestGuidance:
    def test_contrasts_the_prior_with_its_smoothed_self(self, tiny_prior: Callable):
        prior, noise, times = tiny_prior(), normal(2, 7, 4, 8, 8), []

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            def unet() -> Tensor:
                return prior.unet(latents, time.expand(2), prior.prompts(2)).sample

            times.append(float(time))
            if not 0.2 * 1000 <= time < 0.5 * 1000:
                return unet()
            with smoothed_attention(prior.unet):
                smooth = unet()
            return smooth + 3 * (unet() - smooth)

        expected = integrate(prior, predict, noise[:, 0], 6, noise[:, 1:].unbind(1))
        assert min(times) < 200 < sorted(times)[2] < 500 <= max(times)  # on both sides and within
        assert torch.allclose(sample_prior(prior, noise, 3.0, (0.2, 0.5)), expected, atol=1e-5)
        assert not torch.allclose(sample_prior(prior, noise, 1.0, (0.2, 0.5)), expected, atol=1e-3)

    @pytest.mark.parametrize(("guidance", "interval"), [(1.0, (0.0, 1.0)), (3.0, (0.0, 0.0))])
    def test_of_one_or_at_no_timestep_is_the_prior_as_it_is(
        self, tiny_prior: Callable, guidance: float, interval: tuple[float, float]
    ):
        prior, noise, passes = tiny_prior(), normal(2, 4, 4, 8, 8), []
        prior.unet.register_forward_hook(lambda *_: passes.append(1))
        drawn = sample_prior(prior, noise, guidance, interval)
        assert len(passes) == 3  # no second pass is spent
        assert torch.equal(drawn, sample_prior(prior, noise, 1.0, (0.2, 0.5)))
