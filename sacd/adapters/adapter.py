"""What every adapter is: a feature encoder, and a network that conditions the frozen U-Net."""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from sacd.adapters.encoder import FeatureEncoder
from sacd.errors import SacdError
from sacd.features.whitening import Whitening
from sacd.networks import load_weights, read_config, save_network

WEIGHTS = "adapter.safetensors"

Hint = tuple[Tensor, ...]  # what features say, brought to the latent grid once an image
Residuals = tuple[Tensor, ...]  # for each of the U-Net's skip connections and, last, its middle


@dataclass(frozen=True)
class AdapterConfig:
    """What determines an adapter apart from its weights and its prior.

    `feature_shape` is (C, h, w) of the backbone's map, `grid` the latents' (H, W).
    """

    type: str
    conditioning: str
    backbone: str
    layer: str
    feature_shape: tuple[int, int, int]
    grid: tuple[int, int]
    hidden: int


class Adapter(nn.Module, ABC):
    """Conditions a frozen U-Net: `hint` once an image, `forward` once a step.

    Attributes:
        config: what made it.
        encoder: the feature encoder.
    """

    def __init__(self, config: AdapterConfig, whitening: Whitening, unet: UNet2DConditionModel):
        super().__init__()
        self.config = config
        self.encoder = FeatureEncoder(
            whitening,
            pooled=config.conditioning == "pooled",
            grid=config.grid,
            hidden=config.hidden,
            width=unet.config.block_out_channels[0],
        )

    @classmethod
    def from_pretrained(cls, folder: Path, unet: UNet2DConditionModel) -> Self:
        """Load a folder made by `save` for the prior's `unet`; raises `SacdError`."""
        config = read_config(AdapterConfig, folder)
        adapter = cls(config, Whitening.blank(config.feature_shape[0]), unet)
        load_weights(adapter, folder / WEIGHTS, "an adapter for this prior")
        return adapter

    def save(self, folder: Path) -> None:
        """Write configuration and weights: fp16, but the whitening in full."""
        save_network(self, self.config, folder, WEIGHTS)

    def hint(self, features: Tensor, dropped: Tensor | None = None) -> Hint:
        """Features (N, C, h, w) -> hint; rows where `dropped` is true get the null feature."""
        return self.hint_of(self.encoder(features, dropped))

    def null_hint(self, count: int) -> Hint:
        """The hint of the null feature for `count` images."""
        return self.hint_of(self.encoder.null_hint(count))

    @abstractmethod
    def hint_of(self, encoded: Tensor) -> Hint:
        """All that can be computed from the encoded features (N, width, H, W) alone."""

    @abstractmethod
    def residuals(self, noisy: Tensor, times: Tensor, prompts: Tensor, hint: Hint) -> Residuals:
        """What is added to the U-Net for noised latents (N, c, H, W)."""

    def compile_residuals(self) -> None:
        """Compile, in place, what `residuals` runs at every step: here nothing."""

    def forward(
        self,
        unet: UNet2DConditionModel,
        noisy: Tensor,
        times: Tensor,
        prompts: Tensor,
        hint: Hint,
    ) -> Tensor:
        """The conditioned U-Net's prediction for noised latents (N, c, H, W)."""
        return conditioned_prediction(
            unet, noisy, times, prompts, self.residuals(noisy, times, prompts, hint)
        )


def compile_steps(unet: UNet2DConditionModel, adapter: Adapter) -> None:
    """Compile, in place, all that runs at every step of sampling or training.

    PyTorch does so at the first step, and anew for every other number of rows. Raises `SacdError`
    where on a CPU there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")  # as PyTorch chooses it
    if unet.device.type == "cpu" and shutil.which(compiler) is None:
        raise SacdError(f"Compiling needs a C++ compiler, and there is no '{compiler}' (CXX).")
    unet.compile(dynamic=False)
    adapter.compile_residuals()


def conditioned_prediction(
    unet: Callable[..., Any],
    noisy: Tensor,
    times: Tensor,
    prompts: Tensor,
    residuals: Residuals,
) -> Tensor:
    """The U-Net's prediction for noised latents (N, c, H, W) with an adapter's residuals added."""
    *skips, middle = residuals
    return unet(
        noisy,
        times,
        prompts,
        down_block_additional_residuals=tuple(skips),
        mid_block_additional_residual=middle,
    ).sample
