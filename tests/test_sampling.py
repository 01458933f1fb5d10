"""The sampler against stubs whose answer is known, and the inverter's promises."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import normal
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention
from torch import Tensor

from sacd.adapters.adapter import Adapter, Hint, Residuals, compile_steps
from sacd.backbones.backbone import save_backbone
from sacd.errors import SacdError
from sacd.prior.attention import smoothed_attention
from sacd.prior.diffusion import create_scheduler
from sacd.prior.prior import Prior
from sacd.sampling.inverter import Inverter
from sacd.sampling.sampler import integrate, sample_latents, solver

CPU = torch.device("cpu")
COSINE = create_scheduler(1.0)
EPSILON = DDPMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon"
)


# (latents, timesteps) -> prediction, by the schedule that it is given
Network = Callable[[Tensor, Tensor], Tensor]


def a_tenth(noisy: Tensor, times: Tensor) -> Tensor:
    return 0.1 * noisy


def prior_with(scheduler: DDPMScheduler, network: Network = a_tenth) -> Prior:
    """A prior whose U-Net predicts what `network` does plus what is added to its middle."""

    def unet(noisy: Tensor, times: Tensor, prompts: Tensor, **added: Any) -> SimpleNamespace:
        assert len(noisy) == len(times) == len(prompts)
        assert added["down_block_additional_residuals"] == ()
        return SimpleNamespace(
            sample=network(noisy, times) + added["mid_block_additional_residual"]
        )

    return Prior(unet, None, scheduler, torch.zeros(1, 1, 1))


class StubAdapter:
    """Adds the hint to the middle; features are their own hint, the null feature's is `null`."""

    def __init__(self, null: float = 0.25):
        self.null = null
        self.calls: list[tuple[int, float]] = []

    def hint(self, features: Tensor) -> Hint:
        return (features,)

    def null_hint(self, count: int) -> Hint:
        return (torch.full((count, 1, 1, 1), self.null),)

    def residuals(self, noisy: Tensor, times: Tensor, prompts: Tensor, hint: Hint) -> Residuals:
        assert len(noisy) == len(times) == len(prompts) == len(hint[0])
        assert len(times.unique()) == 1
        self.calls.append((len(noisy), float(times[0])))
        return hint


def knowing(scheduler: DDPMScheduler, clean_of: Callable[[Tensor, Tensor], Tensor]) -> Network:
    """Predicts v or noise, as the schedule says, for the clean latents that `clean_of` the noisy
    ones and alpha^2 gives."""

    def network(noisy: Tensor, times: Tensor) -> Tensor:
        squared = scheduler.alphas_cumprod[times.long()].view(-1, 1, 1, 1)
        alpha, sigma = squared.sqrt(), (1 - squared).sqrt()
        clean = clean_of(noisy, squared)
        noise = (noisy - alpha * clean) / sigma
        if scheduler.config.prediction_type == "epsilon":
            return noise
        return alpha * noise - sigma * clean

    return network


class TestGuidance:
    NOISE = normal(3, 1, 2, 2)
    FEATURES = normal(3, 1, 1, 1, seed=1)

    def sample(self, features: Tensor | None, guidance: float, adapter=None) -> Tensor:
        prior = prior_with(create_scheduler(1.0))
        adapter = adapter or StubAdapter()
        return sample_latents(prior, adapter, features, self.NOISE, 4, guidance, (0.0, 0.65))

    @pytest.mark.parametrize("guidance", [0.0, 0.5, 1.75, 4.0])
    def test_contrasts_features_against_the_null_feature(self, guidance: float):
        # The stub is linear in its hint: guiding the prediction is guiding the hint.
        guided_hint = 0.25 + guidance * (self.FEATURES - 0.25)

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            return 0.1 * latents + (guided_hint if time < 650 else self.FEATURES)

        expected = integrate(prior_with(create_scheduler(1.0)), predict, self.NOISE, 4)
        assert torch.allclose(self.sample(self.FEATURES, guidance), expected, atol=1e-5)

    def test_of_one_is_a_single_pass_with_the_features(self):
        adapter = StubAdapter()
        drawn = self.sample(self.FEATURES, 1.0, adapter)
        assert [rows for rows, _ in adapter.calls] == [3, 3, 3, 3]
        assert torch.allclose(drawn, self.sample(self.FEATURES, 1.0 + 1e-6), atol=1e-4)

    def test_of_anything_else_is_one_pass_of_twice_the_batch_once_the_layout_stands(self):
        adapter = StubAdapter()
        self.sample(self.FEATURES, 1.5, adapter)
        assert [rows for rows, _ in adapter.calls] == [3, 3, 6, 6]
        assert adapter.calls[1][1] > 650 > adapter.calls[2][1]

    def test_without_features_the_null_feature_draws_alone(self):
        adapter = StubAdapter()
        drawn = self.sample(None, 3.0, adapter)
        assert [rows for rows, _ in adapter.calls] == [3, 3, 3, 3]
        assert torch.equal(drawn, self.sample(torch.full_like(self.FEATURES, 0.25), 1.0))


class TestEnergyGuidance:
    NOISE = normal(2, 4, 8, 8, seed=3)
    FEATURES = normal(2, 12, 4, 4, seed=4)

    @pytest.fixture
    def prior(self, tiny_prior: Callable) -> Prior:
        prior = tiny_prior()
        for module in prior.unet.modules():
            if isinstance(module, Attention):  # an untrained one hardly tells locations apart
                module.to_q.weight *= 10
                module.to_out[0].weight *= 10
        return prior

    @pytest.fixture
    def adapter(self, tiny_adapter: Callable, prior: Prior) -> Adapter:
        return tiny_adapter(prior, noise=0.4)

    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_adds_what_smoothing_takes_from_the_features_prediction(
        self, prior: Prior, adapter: Adapter, guidance: float
    ):
        hints = adapter.hint(self.FEATURES), adapter.null_hint(2)
        times = []

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            def steered(hint: Hint) -> Tensor:
                return adapter(prior.unet, latents, time.expand(2), prior.prompts(2), hint)

            times.append(float(time))
            with torch.no_grad():
                conditional, null = map(steered, hints)
                if time >= 650:
                    return conditional
                with smoothed_attention(prior.unet):
                    smooth = steered(hints[0])
            return null + guidance * (conditional - null) + 2 * (conditional - smooth)

        expected = integrate(prior, predict, self.NOISE, 4)
        assert min(times) < 650 <= max(times)  # both sides of the limit are taken
        drawn = self.sample(prior, adapter, self.FEATURES, guidance, 2.0)
        assert torch.allclose(drawn, expected, atol=1e-4)
        without = self.sample(prior, adapter, self.FEATURES, guidance, 0.0)
        assert not torch.allclose(without, expected, atol=1e-2)

    @pytest.mark.parametrize(
        ("guidance", "energy", "rows"),
        [
            (3.0, 0.0, [2, 2, 4, 4]),
            (3.0, 1.0, [2, 2, 4, 2, 4, 2]),
            (1.0, 1.0, [2, 2, 2, 2, 2, 2]),
        ],
    )
    def test_costs_a_pass_of_the_prior_only_where_it_acts(
        self, prior: Prior, adapter: Adapter, guidance: float, energy: float, rows: list[int]
    ):
        passes, added = [], []
        first = prior.unet.conv_in
        first.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
        adapter.control.register_forward_hook(lambda *_: added.append(1))
        self.sample(prior, adapter, self.FEATURES, guidance, energy)
        assert (passes, len(added)) == (rows, 4)

    def test_compiled_draws_the_same(
        self, prior: Prior, adapter: Adapter, graphs: Callable[[], int]
    ):
        expected = self.sample(prior, adapter, self.FEATURES, 3.0, 2.0)
        compile_steps(prior.unet, adapter)
        drawn = self.sample(prior, adapter, self.FEATURES, 3.0, 2.0)
        assert torch.allclose(drawn, expected, atol=1e-4)
        assert graphs() == 4  # of the U-Net and of the adapter's copy, for two rows and for four

    def test_compiling_needs_a_compiler(
        self, prior: Prior, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("CXX", "no-compiler")
        with pytest.raises(SacdError, match="a C\\+\\+ compiler, and there is no 'no-compiler'"):
            compile_steps(prior.unet, adapter)

    def test_leaves_the_null_feature(self, prior: Prior, adapter: Adapter):
        alone = self.sample(prior, adapter, None, 1.0, 0.0)
        assert torch.equal(self.sample(prior, adapter, None, 3.0, 2.0), alone)

    def sample(
        self,
        prior: Prior,
        adapter: Adapter,
        features: Tensor | None,
        guidance: float,
        energy: float,
    ) -> Tensor:
        return sample_latents(
            prior, adapter, features, self.NOISE, 4, guidance, (0.0, 0.65), energy
        )


class TestSolver:
    @pytest.mark.parametrize("steps", [1, 2, 5, 20])
    @pytest.mark.parametrize("scheduler", [create_scheduler(1.0), EPSILON], ids=["v", "epsilon"])
    def test_reaches_the_clean_latents_that_the_network_knows(self, scheduler, steps: int):
        clean = normal(3, 4, 8, 8, seed=2)
        prior = prior_with(scheduler, knowing(scheduler, lambda *_: clean))
        noise = normal(3, 4, 8, 8, seed=3)
        drawn = sample_latents(prior, StubAdapter(null=0.0), None, noise, steps, 1.0)
        assert torch.allclose(drawn, clean, atol=2e-3)

    def test_an_untrained_adapter_leaves_the_prior_as_it_is(
        self, tiny_prior: Callable, tiny_adapter: Callable
    ):
        prior, noise = tiny_prior(), normal(2, 4, 8, 8, seed=3)

        def predict(latents: Tensor, time: Tensor) -> Tensor:
            return prior.unet(latents, time.expand(2), prior.prompts(2)).sample

        steered = sample_latents(prior, tiny_adapter(prior), None, noise, 4, 1.0)
        assert torch.equal(integrate(prior, predict, noise, 4), steered)

    def test_integrates_a_gaussian_the_better_the_more_steps(self):
        # Data of variance s^2 about 0: the flow maps noise e to s e (from the last timestep's
        # mixture), and the best prediction of the data is known in closed form.
        scheduler, deviation = create_scheduler(1.0), 0.5

        def mean_of_clean(noisy: Tensor, squared: Tensor) -> Tensor:
            total = squared * deviation**2 + 1 - squared
            return squared.sqrt() * deviation**2 / total * noisy

        prior, adapter = prior_with(scheduler, knowing(scheduler, mean_of_clean)), StubAdapter(0.0)
        noise = normal(16, 4, 8, 8, seed=4)
        errors = [
            float((sample_latents(prior, adapter, None, noise, steps, 1.0) - deviation * noise)
                  .abs().max())
            for steps in (5, 10, 40)
        ]  # fmt: skip
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.02

    def test_steps_down_from_near_the_last_timestep(self):
        adapter = StubAdapter()
        prior = prior_with(create_scheduler(1.0))
        sample_latents(prior, adapter, None, torch.zeros(1, 1, 2, 2), 8, 1.0)
        times = [time for _, time in adapter.calls]
        assert len(times) == 8
        assert times == sorted(times, reverse=True)
        assert 940 < times[0] <= 999
        assert times[-1] < 200

    def test_takes_over_the_priors_schedule(self):
        for scheduler in (create_scheduler(1.0), EPSILON):
            made = solver(prior_with(scheduler))
            assert made.config.prediction_type == scheduler.config.prediction_type
            assert torch.allclose(made.alphas_cumprod, scheduler.alphas_cumprod)

    def test_noise_decides_and_nothing_else_is_random(self):
        prior = prior_with(create_scheduler(1.0))
        noise = normal(2, 1, 2, 2, seed=5)
        torch.manual_seed(0)
        first = sample_latents(prior, StubAdapter(), None, noise, 5, 1.0)
        torch.manual_seed(1)
        second = sample_latents(prior, StubAdapter(), None, noise, 5, 1.0)
        assert torch.equal(first, second)
        assert math.isfinite(float(first.sum()))


@pytest.fixture(params=["fp32", "bf16"])
def inverter(
    request, tiny_prior: Callable, tiny_adapter: Callable, tiny_backbone: Callable
) -> Inverter:
    prior = tiny_prior()
    adapter = tiny_adapter(prior, noise=0.4)
    return Inverter(prior, adapter, tiny_backbone(), CPU, request.param)


# Black and full colours in coarse blocks: images that even a random network tells apart.
BLOCKS = (255 * (normal(3, 3, 4, 4, seed=6) > 0)).byte()
IMAGES = BLOCKS.repeat_interleave(8, 2).repeat_interleave(8, 3)
NAMES = ["first", "second", "third"]


def difference(ours: Tensor, truth: Tensor) -> float:
    """Mean difference in steps of the 8-bit scale."""
    return float((ours.float() - truth.float()).abs().mean())


def near(ours: Tensor, truth: Tensor, inverter: Inverter) -> bool:
    """Equal up to rounding: the kernels for another batch may add in another order."""
    if inverter.precision == "fp32":
        return int((ours.int() - truth.int()).abs().max()) <= 1 and difference(ours, truth) < 0.01
    return difference(ours, truth) < 0.5


class TestInverter:
    def test_gives_bytes_for_each_image_and_sample(self, inverter: Inverter):
        drawn = inverter.invert(IMAGES, samples=2, steps=3)
        assert (drawn.shape, drawn.dtype) == ((3, 2, 3, 32, 32), torch.uint8)
        assert float(drawn.float().std()) > 5

    def test_the_same_call_gives_the_same_images(self, inverter: Inverter):
        first = inverter.invert(IMAGES, samples=2, steps=3, seed=4)
        torch.manual_seed(123)
        assert torch.equal(inverter.invert(IMAGES, samples=2, steps=3, seed=4), first)
        assert difference(inverter.invert(IMAGES, samples=2, steps=3, seed=5), first) > 5

    def test_samples_of_an_image_alone_are_those_in_a_batch(self, inverter: Inverter):
        together = inverter.invert(IMAGES, samples=2, steps=3, ids=NAMES)
        for row, name in enumerate(NAMES):
            alone = inverter.invert(IMAGES[row : row + 1], samples=2, steps=3, ids=[name])
            assert near(alone[0], together[row], inverter), name
        backwards = inverter.invert(IMAGES.flip(0), samples=2, steps=3, ids=NAMES[::-1])
        assert near(backwards.flip(0), together, inverter)

    def test_more_samples_keep_the_first_ones(self, inverter: Inverter):
        few = inverter.invert(IMAGES, samples=1, steps=3, ids=NAMES)
        many = inverter.invert(IMAGES, samples=3, steps=3, ids=NAMES)
        assert near(many[:, :1], few, inverter)
        assert difference(many[:, 1:2], few) > 5

    def test_the_id_decides_the_noise_and_the_image_the_features(self, inverter: Inverter):
        drawn = inverter.invert(IMAGES[[0, 0, 1]], samples=1, steps=3, ids=["a", "b", "a"])
        assert difference(drawn[0], drawn[1]) > 5
        assert difference(drawn[0], drawn[2]) > 1

    def test_given_features_draw_what_their_image_does(self, inverter: Inverter):
        features = inverter.features(IMAGES)
        assert features.shape == (3, 12, 4, 4)
        keys = [(name, 0) for name in NAMES]
        drawn = inverter.sample(features, keys, steps=3)
        assert torch.equal(drawn, inverter.invert(IMAGES, samples=1, steps=3, ids=NAMES)[:, 0])
        unconditional = inverter.sample(None, keys, steps=3)
        assert difference(unconditional, drawn) > 1

    def test_without_a_backbone_only_features_can_be_inverted(self, inverter: Inverter):
        blind = Inverter(inverter.prior, inverter.adapter, None, CPU)
        with pytest.raises(SacdError, match="without a backbone: give features instead"):
            blind.invert(IMAGES)


class TestFromPretrained:
    @pytest.fixture
    def parts(
        self, tmp_path: Path, tiny_prior: Callable, tiny_adapter: Callable, tiny_backbone: Callable
    ) -> SimpleNamespace:
        prior = tiny_prior()
        prior.save(tmp_path / "models/prior")
        backbone = tiny_backbone()
        save_backbone(tmp_path / "models/backbones/tiny", backbone.config, backbone.network)
        adapter = tiny_adapter(prior, noise=0.1)
        adapter.save(tmp_path / "adapters/tiny/spatial")
        return SimpleNamespace(folder=tmp_path, adapter=tmp_path / "adapters/tiny/spatial")

    def test_finds_prior_and_backbone_of_the_adapters_experiment(self, parts, tiny_backbone):
        inverter = Inverter.from_pretrained(parts.adapter)
        again = Inverter.from_pretrained(str(parts.adapter), experiment=str(parts.folder))
        first, second = (i.invert(IMAGES, samples=1, steps=2) for i in (inverter, again))
        assert torch.equal(first, second)
        assert inverter.image_size == 32
        whole = tiny_backbone()(IMAGES.float() / 255)[0]
        assert torch.allclose(inverter.features(IMAGES), whole, rtol=0.05, atol=0.05)

    def test_a_folder_that_is_no_adapter_is_named(self, parts):
        for folder in (parts.folder / "adapters", parts.folder / "nowhere", Path("/")):
            with pytest.raises(SacdError, match=r"not an adapter's folder \(no config\.json\)"):
                Inverter.from_pretrained(folder)

    def test_a_missing_prior_is_named(self, parts):
        (parts.folder / "models/prior").rename(parts.folder / "gone")
        with pytest.raises(SacdError, match="models/prior: not a prior in the diffusers layout"):
            Inverter.from_pretrained(parts.adapter)

    def test_a_backbone_of_another_layer_is_named(self, parts, tiny_backbone: Callable):
        other = tiny_backbone(layer="layer3")
        save_backbone(parts.folder / "models/backbones/tiny", other.config, other.network)
        with pytest.raises(
            SacdError, match=r"spatial: was trained on layer 'forward_features', .*gives 'layer3'"
        ):
            Inverter.from_pretrained(parts.adapter)
