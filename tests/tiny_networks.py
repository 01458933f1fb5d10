"""Fixtures: small random networks, of kinds that the real ones are of."""

import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

# torch is imported where it is used: conftest.py sets the number of its threads before.


@pytest.fixture
def tiny_backbone() -> Callable[..., Any]:
    """Call with timm options to get a small random ResNet as a backbone (8x8 maps of 32 px)."""
    import torch

    from sacd.backbones.backbone import Backbone, BackboneConfig, create_network

    def make(seed: int = 0, layer: str = "forward_features", classes: int = 7) -> Backbone:
        torch.manual_seed(seed)
        options = {
            "num_classes": classes,
            "layers": [1, 1, 1, 1],
            "channels": [8, 8, 8, 12],
            "stem_width": 8,
            "output_stride": 8,
        }
        config = BackboneConfig("resnet18", options, 32, (0.5,) * 3, (0.25,) * 3, layer)
        network = create_network(config)
        for parameter in network.parameters():  # random norms too, so that maps are not alike
            torch.nn.init.normal_(parameter, std=0.3)
        return Backbone(config, network)

    return make


@pytest.fixture
def tiny_prior() -> Callable[..., Any]:
    """Call to get a small random prior: 32 px images, latents (4, 8, 8)."""
    import torch

    from sacd.prior.autoencoder import create_autoencoder
    from sacd.prior.diffusion import create_null_prompt, create_scheduler, create_unet
    from sacd.prior.prior import Prior

    def make(seed: int = 0) -> Prior:
        torch.manual_seed(seed)
        widths = {"block_out_channels": [8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4}
        vae = create_autoencoder({"latent_channels": 4, **widths}, 32)
        unet_options = {
            "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
        }
        unet = create_unet(unet_options, (4, 8, 8))
        for network in (vae, unet):
            network.eval().requires_grad_(False)
        return Prior(unet, vae, create_scheduler(2.0), create_null_prompt())

    return make


@pytest.fixture
def tiny_adapter() -> Callable[..., Any]:
    """Call with a prior to get an adapter for maps (12, 4, 4); `noise` perturbs its weights."""
    import torch

    from sacd.adapters.adapter import Adapter, AdapterConfig
    from sacd.adapters.registry import ADAPTERS
    from sacd.features.whitening import Whitening

    def make(
        prior: Any, conditioning: str = "spatial", noise: float = 0.0, kind: str = "controlnet"
    ) -> Adapter:
        torch.manual_seed(1)
        whitening = Whitening(0.1 * torch.arange(12), torch.diag(1 + 0.1 * torch.arange(12)))
        config = AdapterConfig(
            type=kind,
            conditioning=conditioning,
            backbone="tiny",
            layer="forward_features",
            feature_shape=(12, 4, 4),
            grid=(8, 8),
            hidden=8,
        )
        adapter = ADAPTERS[kind](config, whitening, prior.unet).eval().requires_grad_(False)
        for parameter in adapter.parameters():
            parameter += noise * torch.randn(parameter.shape)
        return adapter

    return make


@pytest.fixture
def tiny_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tiny_prior: Callable, tiny_adapter: Callable, tiny_backbone: Callable,
) -> Path:  # fmt: skip
    """A folder with a prior, a backbone and an adapter for them; the current folder."""
    from sacd.backbones.backbone import save_backbone

    prior, backbone = tiny_prior(), tiny_backbone()
    prior.save(tmp_path / "models/prior")
    save_backbone(tmp_path / "models/backbones/tiny", backbone.config, backbone.network)
    tiny_adapter(prior, noise=0.1).save(tmp_path / "adapters/tiny/spatial")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Has networks compiled as far as tracing, without the C++ compiler that would take minutes.

    Gives how many graphs were traced.
    """
    import torch
    from torch._dynamo.utils import counters

    eager = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    monkeypatch.setenv("CXX", sys.executable)
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]
