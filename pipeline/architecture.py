"""An experiment's networks with random weights: to count their operations, or to time them."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor

from pipeline.networks import backbone_config
from pipeline.settings.sections import (
    AdapterSettings,
    BackboneSettings,
    ImportedAutoencoder,
    Settings,
    TrainedAutoencoder,
)
from sacd.adapters.adapter import Adapter, AdapterConfig
from sacd.adapters.registry import create_adapter
from sacd.backbones.backbone import Backbone, create_network
from sacd.features.whitening import Whitening
from sacd.prior.autoencoder import create_autoencoder
from sacd.prior.diffusion import PROMPT_WIDTH, create_scheduler, create_unet
from sacd.prior.prior import Prior
from sacd.prior.source import local_autoencoder
from sacd.prior.vae import Autoencoder, blank_autoencoder, vae_scale_factor

# Stable Diffusion 1 (Rombach et al. 2022), which MiniSD is; its other options are diffusers' own.
SD_UNET = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD_AUTOENCODER = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
SD_PROMPT = (77, 768)
SHRINKAGE = 2.0  # of noise; decides nothing about shapes


def random_backbone(chosen: BackboneSettings) -> Backbone:
    """The backbone of a section of params.yaml."""
    config = backbone_config(chosen)
    return Backbone(config, create_network(config), verify=False)


def random_prior(settings: Settings) -> tuple[Prior, str]:
    """The experiment's prior, and where its architecture comes from.

    A prior that is imported from a place not on this machine counts as Stable Diffusion 1.
    """
    chosen, size = settings.prior, settings.images.size
    folder = Path(chosen.source).expanduser()
    if chosen.source == "train":
        assert chosen.autoencoder and chosen.unet  # the settings' check
        vae, origin = _random_autoencoder(chosen.autoencoder, size)
        shape = (vae.config.latent_channels, size // vae_scale_factor(vae))
        unet, prompt = create_unet(chosen.unet.options, (shape[0], shape[1])), (1, PROMPT_WIDTH)
    elif (folder / "unet").is_dir():
        vae = blank_autoencoder(folder / "vae")
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        prompt, origin = (1, unet.config.cross_attention_dim), chosen.source
    else:
        vae = create_autoencoder(SD_AUTOENCODER, size)
        unet = UNet2DConditionModel(sample_size=size // vae_scale_factor(vae), **SD_UNET)
        prompt = SD_PROMPT
        origin = f"Stable Diffusion 1, for {chosen.source} is not here"
    for network in (vae, unet):
        network.eval().requires_grad_(False)
    return Prior(unet, vae, create_scheduler(SHRINKAGE), torch.zeros(1, *prompt)), origin


def _random_autoencoder(
    chosen: TrainedAutoencoder | ImportedAutoencoder, size: int
) -> tuple[Autoencoder, str]:
    """One that is imported from a place not on this machine counts as TAESD3."""
    if isinstance(chosen, TrainedAutoencoder):
        return create_autoencoder(chosen.options, size), "params.yaml"
    if Path(chosen.source).expanduser().is_dir():
        folder = local_autoencoder(chosen.source)
        return blank_autoencoder(folder), f"params.yaml and {folder}"
    origin = f"params.yaml, and TAESD3, for {chosen.source} is not here"
    return AutoencoderTiny(latent_channels=16), origin


def random_adapter(chosen: AdapterSettings, prior: Prior, features: Tensor, grid: int) -> Adapter:
    """The adapter of a section of params.yaml for maps like `features` (1, C, h, w)."""
    shape = tuple(features.shape[1:])
    config = AdapterConfig(
        type=chosen.type,
        conditioning=chosen.conditioning,
        backbone="",
        layer="",
        feature_shape=shape,  # type: ignore[arg-type]
        grid=(grid, grid),
        hidden=chosen.hidden,
    )
    return create_adapter(config, Whitening.blank(shape[0]), prior.unet)
