"""Priors in the layouts that people have: taken right, or refused when they are imported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import normal, one_message
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sacd.errors import SacdError
from sacd.prior.prior import Prior
from sacd.prior.source import NULL_PROMPT
from sacd.prior.vae import decode, encode

SCHEDULER = "scheduler/scheduler_config.json"
UNET, VAE = "unet/config.json", "vae/config.json"


@pytest.fixture
def folder(tmp_path: Path, tiny_prior: Callable) -> Path:
    tiny_prior().save(tmp_path / "prior")
    return tmp_path / "prior"


def edit(folder: Path, part: str, **changes: Any) -> None:
    path = folder / part
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "'EDMEulerScheduler' is of no process"),
        (SCHEDULER, {"_class_name": "LCMScheduler"}, "'LCMScheduler' is of no process"),
        (SCHEDULER, {"_class_name": "left out"}, "'None' is of no process"),
        (SCHEDULER, {"use_flow_sigmas": True}, "of no process that we know"),
        (SCHEDULER, {"trained_betas": None, "beta_end": "left out"}, "names no noise schedule"),
        (SCHEDULER, {"num_train_timesteps": "left out"}, "names no noise schedule"),
        (SCHEDULER, {"num_train_timesteps": 0, "trained_betas": None, "beta_start": 0.1,
                     "beta_end": 0.2}, "names no noise schedule"),
        (SCHEDULER, {"prediction_type": "flow"}, "prediction_type 'flow' is none of"),
        (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "no noise schedule: .* every one of"),
        (SCHEDULER, {"trained_betas": [0.001] * 999 + [2.0]}, "the signal must fall"),
        (SCHEDULER, {"trained_betas": 0.5}, "no noise schedule"),
        (SCHEDULER, {"trained_betas": None, "beta_schedule": "steep"}, "no noise schedule .*steep"),
        (UNET, {"_class_name": "UNet2DModel"}, "of class UNet2DModel; a prior needs UNet2DCond"),
        (UNET, {"num_class_embeds": 10}, r"more than a prompt \(num_class_embeds\)"),
        (UNET, {"class_embed_type": "timestep"}, r"more than a prompt \(class_embed_type\)"),
        (UNET, {"encoder_hid_dim_type": "image_proj"}, r"\(encoder_hid_dim_type\)"),
        (UNET, {"in_channels": 9}, "takes 9 channels and gives 4, .* latents have 4"),
        (UNET, {"out_channels": 8}, "takes 4 channels and gives 8"),
        (UNET, {"cross_attention_dim": 64}, "takes prompts 64 wide, the null prompt is 32 wide"),
        (UNET, {"cross_attention_dim": {}}, r"takes prompts \{\} wide"),
        (UNET, {"block_out_channels": "left out"}, "'block_out_channels' is missing"),
        (UNET, {"block_out_channels": [8]}, "not a UNet2DConditionModel"),
        (UNET, {"use_linear_projection": True}, "not a UNet2DConditionModel .* size mismatch"),
        (UNET, {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "not a UNet|weights don't fit"),
        (UNET, {"conv_in_kernel": 1}, "size mismatch"),
        (UNET, {"quantization_config": {"quant_method": "torchao"}}, "of quantised weights"),
        (VAE, {"quantization_config": {"quant_method": "gguf"}}, "of quantised weights"),
        (VAE, {"_class_name": "VQModel"}, "of class VQModel; .* AutoencoderKL or AutoencoderTiny"),
        (VAE, {"scaling_factor": 0}, "scaling_factor 0 is no number"),
        (VAE, {"scaling_factor": "0.2"}, "scaling_factor '0.2' is no number"),
        (VAE, {"latents_mean": [0.1] * 4}, "given both or not at all"),
        (VAE, {"shift_factor": "0.1"}, "shift_factor '0.1' is no number"),
        (VAE, {"latents_mean": 0.1, "latents_std": [1.0] * 4}, "latents_mean is no list of num"),
        (VAE, {"latents_mean": [None] * 4, "latents_std": [1.0] * 4}, "latents_mean is no list"),
        (VAE, {"latents_mean": [0.1] * 3, "latents_std": [1.0] * 4}, "3 values for 4 channels"),
        (VAE, {"latents_mean": [0.1] * 4, "latents_std": [1.0, 1.0, 0.0, 1.0]}, "above 0"),
    ],
)  # fmt: skip
def test_what_we_cannot_sample_is_refused_by_file_and_key(
    folder: Path, part: str, changes: dict[str, Any], said: str
):
    edit(folder, part, **changes)
    with pytest.raises(SacdError, match=said) as caught:
        Prior.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("part", [UNET, VAE, SCHEDULER])
@pytest.mark.parametrize("content", ["{}", "[]", "null"])
def test_an_empty_configuration_is_named(folder: Path, part: str, content: str):
    (folder / part).write_text(content)
    with pytest.raises(SacdError, match=rf"not a prior in the diffusers layout .*{part} is"):
        Prior.from_pretrained(folder)


@pytest.mark.parametrize("solver", ["DDIM", "PNDM", "EulerDiscrete", "UniPCMultistep"])
def test_another_solver_of_the_same_process_is_taken(folder: Path, solver: str):
    betas = Prior.from_pretrained(folder).scheduler.betas
    edit(folder, SCHEDULER, _class_name=f"{solver}Scheduler")
    assert torch.equal(Prior.from_pretrained(folder).scheduler.betas, betas)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_weights_that_are_no_numbers_are_named(folder: Path, part: str):
    path = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights[sorted(weights)[0]].view(-1)[0] = float("nan")
    save_file(weights, path)
    with pytest.raises(SacdError, match=rf"prior/{part}/{path.name}: .* not finite"):
        Prior.from_pretrained(folder)


def test_a_unet_that_predicts_no_numbers_is_refused(folder: Path):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = {name: value.float() for name, value in load_file(path).items()}
    weights["conv_norm_out.weight"] += 1e30
    weights["conv_out.weight"] += 1e30
    save_file(weights, path)
    with pytest.raises(SacdError, match="unet/ predicts what are no finite numbers"):
        Prior.from_pretrained(folder)


def test_parts_that_do_not_work_together_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def asks_for_more(self: UNet2DConditionModel, *given: Any) -> None:
        raise TypeError("forward() needs\n  'pose'")

    monkeypatch.setattr(UNet2DConditionModel, "forward", asks_for_more)
    with pytest.raises(SacdError, match=r"don't work together \(forward\(\) needs 'pose'\)"):
        Prior.from_pretrained(folder)


def test_all_of_a_prior_is_looked_at_before_its_latents_are_cached(
    folder: Path, in_experiment: Callable, call_stage: Callable, fixture_params: dict[str, Any]
):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.bias"][0] = float("inf")
    save_file(weights, path)
    fixture_params["prior"] = {"source": str(folder), "autoencoder": None, "unet": None}
    here = in_experiment(fixture_params)
    message = one_message(*call_stage("make_autoencoder"))
    assert message.startswith(f"{path}: 'conv_in.bias' holds weights that are not finite")
    assert not (here / "models").exists()


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_weights_of_a_variant_are_the_same_weights(folder: Path, variant: str):
    whole = Prior.from_pretrained(folder)
    for part in ("unet", "vae"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        path.rename(path.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    again = Prior.from_pretrained(folder)
    for ours, theirs in ((again.unet, whole.unet), (again.vae, whole.vae)):
        twins = theirs.state_dict()
        assert all(torch.equal(value, twins[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 1, 32), (1, 32), (1, 0, 32)])
def test_a_null_prompt_of_another_shape_is_refused(folder: Path, shape: tuple[int, ...]):
    save_file({"embedding": torch.zeros(shape)}, folder / NULL_PROMPT)
    with pytest.raises(SacdError, match=r"holds no embedding \(1, tokens, width\)"):
        Prior.from_pretrained(folder)


class TestLatents:
    """What a U-Net was trained on is the latents as the autoencoder's configuration scales them."""

    IMAGES = normal(2, 3, 32, 32).sigmoid()
    MEAN, DEVIATION = [0.5, -1.0, 2.0, 0.0], [0.5, 2.0, 1.5, 0.1]

    def means(self, prior: Prior) -> torch.Tensor:
        return prior.vae.encode(2 * self.IMAGES - 1).latent_dist.mean

    @torch.no_grad()
    def test_a_shift_is_taken_off_before_they_are_scaled(self, folder: Path):
        edit(folder, VAE, shift_factor=0.6, scaling_factor=1.5)
        prior = Prior.from_pretrained(folder)
        expected = (self.means(prior) - 0.6) * 1.5
        torch.testing.assert_close(encode(prior.vae, self.IMAGES), expected)

    @torch.no_grad()
    def test_channels_are_standardised_by_a_mean_and_deviation_of_each(self, folder: Path):
        edit(folder, VAE, latents_mean=self.MEAN, latents_std=self.DEVIATION, scaling_factor=0.7)
        prior = Prior.from_pretrained(folder)
        means = self.means(prior)
        for channel, (mean, deviation) in enumerate(zip(self.MEAN, self.DEVIATION, strict=True)):
            torch.testing.assert_close(
                encode(prior.vae, self.IMAGES)[:, channel],
                (means[:, channel] - mean) / deviation * 0.7,
            )

    @pytest.mark.parametrize(
        "changes",
        [{"shift_factor": 0.6}, {"latents_mean": MEAN, "latents_std": DEVIATION}, {}],
    )
    @torch.no_grad()
    def test_decoding_undoes_it(self, folder: Path, changes: dict[str, Any]):
        edit(folder, VAE, scaling_factor=1.3, **changes)
        prior = Prior.from_pretrained(folder)
        decoded = prior.vae.decode(self.means(prior)).sample
        expected = ((decoded + 1) / 2).clamp(0, 1)
        ours = decode(prior.vae, encode(prior.vae, self.IMAGES))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
