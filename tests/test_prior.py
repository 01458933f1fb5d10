"""The prior: what is denoised, what is stored, and its autoencoder."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import normal
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sacd.backbones.backbone import Backbone, BackboneConfig, create_network
from sacd.errors import SacdError
from sacd.optimization import Recipe
from sacd.prior.autoencoder import (
    FeatureLoss,
    create_autoencoder,
    refine_decoder,
    train_autoencoder,
)
from sacd.prior.diffusion import create_scheduler, noised, train_unet
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.prior import Prior
from sacd.prior.source import NULL_PROMPT
from sacd.prior.vae import decode, encode, load_autoencoder, save_autoencoder, to_uint8

CPU = torch.device("cpu")
RECIPE = Recipe(6, 4, 0.005, 2, "constant", 0.0, 0.5, 1.0, "fp32", 0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), generator=generator(seed), dtype=torch.uint8)


def signal_and_noise(scheduler: DDPMScheduler, times: Tensor) -> tuple[Tensor, Tensor]:
    """Factors alpha and sigma of the noised latents a x + s e at each timestep."""
    squared = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    return squared.sqrt(), (1 - squared).sqrt()


class TestSchedule:
    @pytest.mark.parametrize("shift", [1.0, 2.0, 0.5])
    def test_is_the_cosine_schedule_with_its_noise_scaled(self, shift: float):
        found = create_scheduler(shift).alphas_cumprod.double()
        angle = math.pi / 2 * torch.arange(1, 1001).double() / 1000
        expected = 1 / (shift * torch.tan(angle)) ** 2  # signal-to-noise ratio
        ratio = found / (1 - found)
        assert torch.allclose(ratio[20:-1], expected[20:-1], rtol=2e-2)
        assert float(ratio[-1]) < 1e-6

    def test_survives_being_saved(self, tmp_path: Path):
        create_scheduler(2.0).save_pretrained(tmp_path)
        again = DDPMScheduler.from_pretrained(tmp_path)
        assert torch.equal(again.alphas_cumprod, create_scheduler(2.0).alphas_cumprod)


class TestDenoisingTarget:
    LATENTS = normal(64, 4, 8, 8)

    def test_v_is_the_rotation_of_noise_and_signal(self):
        scheduler = create_scheduler(1.0)
        noisy, times, target = noised(scheduler, self.LATENTS, generator(1))
        alpha, sigma = signal_and_noise(scheduler, times)
        # v = a e - s x and noisy = a x + s e: turning back gives both.
        assert torch.allclose(alpha * noisy - sigma * target, self.LATENTS, atol=1e-4)
        noise = sigma * noisy + alpha * target
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.04)
        assert float(noise.std()) == pytest.approx(1.0, abs=0.04)

    def test_a_prior_that_predicts_noise_is_trained_on_noise(self):
        scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon")
        noisy, times, target = noised(scheduler, self.LATENTS, generator(1))
        alpha, sigma = signal_and_noise(scheduler, times)
        assert torch.allclose(alpha * self.LATENTS + sigma * target, noisy, atol=1e-4)
        assert float(target.std()) == pytest.approx(1.0, abs=0.04)

    def test_a_prior_that_predicts_the_signal_is_trained_on_latents(self):
        scheduler = DDPMScheduler(prediction_type="sample")
        _, _, target = noised(scheduler, self.LATENTS, generator(1))
        assert torch.equal(target, self.LATENTS)

    def test_timesteps_cover_the_whole_schedule(self):
        _, times, _ = noised(create_scheduler(1.0), torch.zeros(4000, 1, 1, 1), generator(2))
        assert int(times.min()) < 10
        assert int(times.max()) > 989
        assert float(times.float().mean()) == pytest.approx(499.5, abs=20)

    def test_a_batch_has_one_timestep_in_every_equal_part_of_the_schedule_in_any_order(self):
        _, times, _ = noised(create_scheduler(1.0), torch.zeros(50, 1, 1, 1), generator(2))
        assert times.sort().values.div(20, rounding_mode="floor").tolist() == list(range(50))
        assert times.tolist() != times.sort().values.tolist()

    def test_a_small_exponent_brings_high_noise_more_often(self):
        draw = (create_scheduler(1.0), torch.zeros(4000, 1, 1, 1), generator(2))
        _, times, _ = noised(*draw, exponent=0.5)
        # t = 1000 u^0.5 has the distribution function (t / 1000)^2.
        for limit in (250, 500, 750):
            assert float((times < limit).float().mean()) == pytest.approx(
                (limit / 1000) ** 2, abs=0.01
            )

    def test_the_generator_decides(self):
        first, second, other = (
            noised(create_scheduler(1.0), self.LATENTS, generator(seed)) for seed in (3, 3, 4)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], other[0])


class TestStorage:
    def test_a_saved_prior_predicts_the_same(self, tmp_path: Path, tiny_prior: Callable):
        prior = tiny_prior()
        prior.save(tmp_path / "prior")
        again = Prior.from_pretrained(tmp_path / "prior")
        noisy = torch.randn(2, 4, 8, 8, generator=generator(0))
        times = torch.tensor([10, 900])
        # Saving rounds the weights in memory too, so that they are those of the file.
        assert torch.equal(
            again.unet(noisy, times, again.prompts(2)).sample,
            prior.unet(noisy, times, again.prompts(2)).sample,
        )
        images = random_images(2).float() / 255
        assert torch.equal(encode(again.vae, images), encode(prior.vae, images))
        assert again.scheduler.config.prediction_type == "v_prediction"
        assert torch.allclose(again.null_prompt, prior.null_prompt, atol=1e-2)
        assert not any(p.requires_grad for p in again.unet.parameters())

    def test_weights_are_stored_in_half_precision(self, tmp_path: Path, tiny_prior: Callable):
        tiny_prior().save(tmp_path / "prior")
        for path in (tmp_path / "prior").rglob("*.safetensors"):
            assert {value.dtype for value in load_file(path).values()} == {torch.float16}, path

    @pytest.mark.parametrize("missing", ["unet", "vae", "scheduler", NULL_PROMPT])
    def test_a_folder_that_lacks_a_part_is_named(
        self, tmp_path: Path, tiny_prior: Callable, missing: str
    ):
        tiny_prior().save(tmp_path / "prior")
        (tmp_path / "prior" / missing).rename(tmp_path / "gone")
        with pytest.raises(SacdError, match=r"prior(/unet|/vae)?: not? (a prior in|\w+ of) "):
            Prior.from_pretrained(tmp_path / "prior")

    def test_a_null_prompt_under_another_name_is_refused(
        self, tmp_path: Path, tiny_prior: Callable
    ):
        tiny_prior().save(tmp_path / "prior")
        save_file({"prompt": torch.zeros(1, 1, 32)}, tmp_path / "prior" / NULL_PROMPT)
        with pytest.raises(SacdError, match="embedding"):
            Prior.from_pretrained(tmp_path / "prior")

    def test_truncated_weights_are_refused(self, tmp_path: Path, tiny_prior: Callable):
        tiny_prior().save(tmp_path / "prior")
        path = tmp_path / "prior/unet/diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(SacdError, match="unet: not a UNet2DConditionModel of diffusers"):
            Prior.from_pretrained(tmp_path / "prior")

    def test_a_truncated_null_prompt_is_refused(self, tmp_path: Path, tiny_prior: Callable):
        tiny_prior().save(tmp_path / "prior")
        path = tmp_path / "prior" / NULL_PROMPT
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(
            SacdError, match=r"null_prompt\.safetensors: not a readable safetensors"
        ):
            Prior.from_pretrained(tmp_path / "prior")

    def test_weights_that_lack_a_layer_are_refused(self, tmp_path: Path, tiny_prior: Callable):
        tiny_prior().save(tmp_path / "prior")
        path = tmp_path / "prior/vae/diffusion_pytorch_model.safetensors"
        kept = {k: v for k, v in load_file(path).items() if not k.startswith("decoder.conv_out")}
        save_file(kept, path)
        with pytest.raises(SacdError, match=r"vae: weights .* missing \['decoder\.conv_out\.bias'"):
            Prior.from_pretrained(tmp_path / "prior")

    def test_an_autoencoder_comes_back(self, tmp_path: Path, tiny_prior: Callable):
        vae = tiny_prior().vae
        vae.register_to_config(scaling_factor=0.5)
        save_autoencoder(vae, tmp_path / "vae")
        again = load_autoencoder(tmp_path / "vae")
        assert again.config.scaling_factor == 0.5
        images = 2 * random_images(1).float() / 255 - 1
        assert torch.equal(
            again.encode(images).latent_dist.mean, vae.encode(images).latent_dist.mean
        )
        with pytest.raises(SacdError, match="absent: no autoencoder of diffusers"):
            load_autoencoder(tmp_path / "absent")


class TestOptions:
    OPTIONS = {"latent_channels": 4, "block_out_channels": [8, 8], "norm_num_groups": 4}  # noqa: RUF012

    def test_an_unknown_one_names_the_nearest(self):
        with pytest.raises(SacdError, match=r"'layer_per_block'\. Did you mean 'layers_per_block'"):
            create_autoencoder({**self.OPTIONS, "layer_per_block": 1}, 32)

    def test_one_that_cannot_be_is_named(self):
        with pytest.raises(SacdError, match=r"AutoencoderKL cannot be made with .*norm_num_groups"):
            create_autoencoder({**self.OPTIONS, "norm_num_groups": 3}, 32)


class TestLatents:
    def test_encoding_in_batches_is_scaled_and_in_order(self, tiny_prior: Callable, monkeypatch):
        monkeypatch.setattr("sacd.prior.latents.BATCH", 2)
        prior, images = tiny_prior(), random_images(5)
        prior.vae.register_to_config(scaling_factor=3.0)
        latents = encode_images(prior.vae, images, CPU)
        assert latents.dtype == torch.float16
        mean = prior.vae.encode(images.float() / 127.5 - 1).latent_dist.mean
        assert torch.allclose(latents.float(), 3.0 * mean, rtol=0.01, atol=0.01)
        assert torch.allclose(encode(prior.vae, images.float() / 255), 3.0 * mean, atol=1e-4)

    def test_decoding_undoes_the_scale_and_gives_bytes(self, tiny_prior: Callable):
        prior = tiny_prior()
        prior.vae.register_to_config(scaling_factor=3.0)
        latents = torch.randn(3, 4, 8, 8, generator=generator(0))
        expected = to_uint8((prior.vae.decode(latents / 3.0).sample + 1) / 2)
        found = decode_latents(prior.vae, latents, CPU)
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected)
        assert torch.equal(to_uint8(decode(prior.vae, latents)), expected)

    def test_bytes_are_rounded_and_clipped(self):
        values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 7.0])
        assert to_uint8(values).tolist() == [0, 0, 0, 1, 255, 255]

    def test_what_is_no_number_is_no_image(self):
        with pytest.raises(SacdError, match="not a number"):
            to_uint8(torch.tensor([0.5, float("nan")]))


class TestFeatureLoss:
    def test_is_the_squared_difference_of_unit_vectors(self, tiny_backbone: Callable):
        backbone = tiny_backbone()
        loss = FeatureLoss(backbone, ["layer1", "layer3"])
        a, b = (random_images(2, seed).float() / 255 for seed in (0, 1))
        expected = 0.0
        for layer in ("layer1", "layer3"):
            tapped = tiny_backbone(layer=layer)
            first, second = (nn.functional.normalize(tapped(x)[0], dim=1) for x in (a, b))
            expected += float(((first - second) ** 2).sum(1).mean())
        assert float(loss(a, b)) == pytest.approx(expected, rel=1e-4)
        assert float(loss(a, a)) == 0.0

    def test_layers_that_put_channels_last_are_no_exception(self):
        options = {
            "num_classes": 3, "img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 12,
            "depths": [1, 1], "num_heads": [2, 2],
        }  # fmt: skip
        torch.manual_seed(0)
        config = BackboneConfig("swinv2_tiny_window8_256", options, 32, (0.5,) * 3, (0.25,) * 3,
                                "layers.0")  # fmt: skip
        backbone = Backbone(config, create_network(config))
        a, b = (random_images(2, seed).float() / 255 for seed in (0, 1))
        first, second = (nn.functional.normalize(backbone(x)[0], dim=1) for x in (a, b))
        assert first.shape[1:] == (12, 8, 8)
        expected = float(((first - second) ** 2).sum(1).mean())
        assert float(FeatureLoss(backbone, ["layers.0"])(a, b)) == pytest.approx(expected, rel=1e-4)

    def test_pulls_on_the_first_image_only(self, tiny_backbone: Callable):
        loss = FeatureLoss(tiny_backbone(), ["layer2"])
        a, b = (random_images(1, seed).float() / 255 for seed in (0, 1))
        a.requires_grad_()
        b.requires_grad_()
        loss(a, b).backward()
        assert float(a.grad.abs().sum()) > 0
        assert b.grad is None

    def test_an_unknown_layer_names_the_nearest(self, tiny_backbone: Callable):
        with pytest.raises(SacdError, match=r"'layer22'\. Did you mean 'layer2'"):
            FeatureLoss(tiny_backbone(), ["layer1", "layer22"])


OPTIONS = {
    "latent_channels": 4, "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
}  # fmt: skip


class TestTraining:
    def test_an_autoencoders_latents_have_unit_deviation(self, tmp_path: Path):
        images = random_images(24)
        vae, trained = train_autoencoder(
            OPTIONS, images, RECIPE, lambda a, b: (a - b).abs().mean(), 0.1, 1e-3,
            tmp_path, CPU, lambda items, total: items,
        )  # fmt: skip
        latents = encode_images(vae, images, CPU).float()
        assert float(latents.std()) == pytest.approx(1.0, abs=0.01)
        assert set(trained.history[-1]) == {"step", "loss", "psnr_db", "feature_loss"}
        assert not vae.training

    def test_a_larger_kl_weight_leaves_more_noise_in_the_posterior(self, tmp_path: Path):
        def deviation(kl_weight: float) -> float:
            vae, _ = train_autoencoder(
                OPTIONS, images, RECIPE, lambda a, b: (a - b).abs().mean(), 0.1, kl_weight,
                tmp_path / str(kl_weight), CPU, lambda items, total: items,
            )  # fmt: skip
            posterior = vae.encode(2 * images.float() / 255 - 1).latent_dist
            return float(posterior.std.mean() / posterior.mean.std())

        images = random_images(24)
        assert deviation(10.0) > 1.5 * deviation(0.0)

    def test_refining_changes_what_is_drawn_and_not_the_latents(
        self, tmp_path: Path, tiny_prior: Callable
    ):
        vae, images = tiny_prior().vae, random_images(8)
        before = encode_images(vae, images, CPU)
        drawn = decode_latents(vae, before, CPU)
        trained = refine_decoder(
            vae, images, RECIPE, lambda a, b: (a - b).abs().mean(), 0.1,
            tmp_path, CPU, lambda items, total: items,
        )  # fmt: skip
        assert torch.equal(encode_images(vae, images, CPU), before)
        assert not torch.equal(decode_latents(vae, before, CPU), drawn)
        assert not any(p.requires_grad for p in vae.parameters())
        for name, value in trained.weights.items():
            assert torch.equal(vae.state_dict()[name], value), name

    def test_a_unet_learns_to_denoise_and_keeps_the_average(
        self, tmp_path: Path, tiny_prior: Callable
    ):
        prior = tiny_prior()
        latents = torch.randn(16, 4, 8, 8, generator=generator(0)).half()
        assert prior.null_prompt.shape == (1, 1, 32)
        before = prior.unet.conv_in.weight.clone()
        trained = train_unet(
            prior.unet, prior.scheduler, prior.null_prompt, latents, RECIPE,
            tmp_path, CPU, lambda items, total: items,
        )  # fmt: skip
        for name, value in prior.unet.named_parameters():
            assert torch.equal(value, trained.weights[name]), name
        assert not torch.equal(prior.unet.conv_in.weight, before)
        assert not any(p.requires_grad for p in prior.unet.parameters())
        assert trained.history[-1]["loss"] < 2.0  # v has unit variance: a start near 1
