"""Autoencoders that are imported: their kinds, their latents' standardisation, their way in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import one_message
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from sacd.errors import SacdError
from sacd.files import read_json, write_json
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.prior import Prior
from sacd.prior.vae import (
    decode,
    encode,
    load_autoencoder,
    save_autoencoder,
    standardise,
    vae_scale_factor,
)
from sacd.shards import Shards

CPU = torch.device("cpu")


def tiny(latent_channels: int = 4) -> AutoencoderTiny:
    """Of random weights; 32 px become 8 x 8."""
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    return AutoencoderTiny(
        latent_channels=latent_channels, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
        **widths,
    ).requires_grad_(False).eval()  # fmt: skip


def kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4, scaling_factor=0.3,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    ).requires_grad_(False).eval()  # fmt: skip


def images(count: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, 32, 32), some of them darker than others."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 32, 32, generator=generator)
    return (255 * pixels * torch.rand(count, 1, 1, 1, generator=generator)).to(torch.uint8)


class TestTiny:
    def test_encodes_and_decodes_as_diffusers_does(self):
        vae, pixels = tiny(), images(2).float() / 255
        assert vae_scale_factor(vae) == 4
        latents = vae.encode(2 * pixels - 1).latents
        torch.testing.assert_close(encode(vae, pixels), latents)
        drawn = ((vae.decode(latents).sample + 1) / 2).clamp(0, 1)
        torch.testing.assert_close(decode(vae, latents), drawn)

    def test_comes_back_from_its_folder(self, tmp_path: Path):
        vae = tiny()
        standardise(vae, images(8), CPU)
        save_autoencoder(vae, tmp_path / "vae")
        again = load_autoencoder(tmp_path / "vae")
        assert isinstance(again, AutoencoderTiny)
        pixels = images(2).float() / 255
        torch.testing.assert_close(encode(again, pixels), encode(vae, pixels))

    def test_is_the_autoencoder_of_a_prior(self, tmp_path: Path, tiny_prior: Callable):
        prior = tiny_prior()
        prior.vae = tiny()
        standardise(prior.vae, images(8), CPU)
        prior.save(tmp_path / "prior")
        again = Prior.from_pretrained(tmp_path / "prior").to(CPU)
        pixels = images(2)
        torch.testing.assert_close(
            encode_images(again.vae, pixels, CPU), encode_images(prior.vae, pixels, CPU)
        )


@pytest.mark.parametrize("make", [tiny, kl])
class TestStandardisation:
    def test_every_channel_has_zero_mean_and_unit_deviation(self, make: Callable, monkeypatch):
        monkeypatch.setattr("sacd.prior.vae.BATCH", 5)  # the last batch is smaller
        vae, pixels = make(), images(24)
        before = encode(vae, pixels.float() / 255)
        assert float((before.std((0, 2, 3)) - 1).abs().min()) > 0.05
        standardise(vae, pixels, CPU)
        after = encode(vae, pixels.float() / 255)
        assert after.mean((0, 2, 3)).abs().max() < 1e-3
        assert (after.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-3

    def test_decoding_undoes_it(self, make: Callable):
        vae, pixels = make(), images(8)
        expected = decode_latents(vae, encode_images(vae, pixels, CPU), CPU)
        standardise(vae, pixels, CPU)
        ours = decode_latents(vae, encode_images(vae, pixels, CPU), CPU)
        assert (ours.int() - expected.int()).abs().max() <= 1

    def test_a_channel_that_never_changes_is_refused(self, make: Callable):
        vae = make()
        for name, weight in vae.named_parameters():
            if name.startswith(("encoder", "quant_conv")):
                weight.zero_()
        with pytest.raises(SacdError, match="a channel is the same everywhere"):
            standardise(vae, images(8), CPU)


@pytest.fixture
def imported(
    tmp_path: Path, in_experiment: Callable, call_stage: Callable, fixture_params: dict[str, Any]
) -> Callable[..., tuple[int, str]]:
    """Call with a source to run `make_autoencoder` with the autoencoder there."""

    def run(source: str, size: int = 32) -> tuple[int, str]:
        fixture_params["prior"]["autoencoder"] = {"type": "imported", "source": source}
        fixture_params["images"]["size"] = size
        for network in fixture_params["backbones"].values():
            network["input_size"] = size
        fixture_params["decoders"] = {}
        in_experiment(fixture_params)
        status, said = call_stage("prepare_images")
        assert status == 0, said
        return call_stage("make_autoencoder")

    return run


class TestStage:
    @pytest.mark.parametrize("place", ["vae", "prior/vae"])
    def test_imports_it_standardised_over_the_train_split(
        self, tmp_path: Path, imported: Callable, place: str
    ):
        save_autoencoder(tiny(), tmp_path / place)
        status, said = imported(str(tmp_path / Path(place).parts[0]))
        assert status == 0, said
        vae = load_autoencoder(tmp_path / "models/autoencoder")
        train = Shards(tmp_path / "data/images/train").read_all("images")
        latents = encode_images(vae, train, CPU).float()
        assert latents.mean((0, 2, 3)).abs().max() < 5e-3
        assert (latents.std((0, 2, 3), correction=0) - 1).abs().max() < 5e-3
        record = read_json(tmp_path / "models/autoencoder/record.json")
        assert record["training"] == {"imported": str(tmp_path / Path(place).parts[0])}
        assert record["val_psnr_db"] > 0

    def test_another_kind_is_refused_by_the_file(self, tmp_path: Path, imported: Callable):
        save_autoencoder(tiny(), tmp_path / "vae")
        config = tmp_path / "vae/config.json"
        write_json(config, read_json(config) | {"_class_name": "AutoencoderDC"})
        message = one_message(*imported(str(tmp_path / "vae")))
        assert message.startswith(f"{config}: of class AutoencoderDC; a prior needs AutoencoderKL")

    def test_images_that_it_cannot_divide_are_refused(self, tmp_path: Path, imported: Callable):
        save_autoencoder(tiny(), tmp_path / "vae")
        message = one_message(*imported(str(tmp_path / "vae"), size=34))
        assert message == (
            f"images.size: 34 is no multiple of 4, by which the autoencoder of "
            f"{tmp_path / 'vae'} shrinks images.\n"
        )

    def test_a_folder_that_is_none_is_named_by_the_key(self, imported: Callable):
        message = one_message(*imported("./absent"))
        assert message.startswith("prior.autoencoder.source: absent: no such folder")
