"""The types of adapters by the names that params.yaml gives them."""

from pathlib import Path

from diffusers import UNet2DConditionModel

from sacd.adapters.adapter import Adapter, AdapterConfig
from sacd.adapters.controlnet import ControlNetAdapter
from sacd.adapters.lite import LiteAdapter
from sacd.errors import unknown_name
from sacd.features.whitening import Whitening
from sacd.files import read_json

ADAPTERS: dict[str, type[Adapter]] = {"controlnet": ControlNetAdapter, "lite": LiteAdapter}


def create_adapter(
    config: AdapterConfig, whitening: Whitening, unet: UNet2DConditionModel
) -> Adapter:
    """A new adapter of `config.type` for the features that `whitening` describes."""
    return ADAPTERS[config.type](config, whitening, unet)


def load_adapter(folder: Path, unet: UNet2DConditionModel) -> Adapter:
    """Load an adapter of any registered type; raises `SacdError`."""
    kind = read_json(folder / "config.json").get("type")
    if kind not in ADAPTERS:
        raise unknown_name("adapter type", str(kind), ADAPTERS, f"{folder}/config.json")
    return ADAPTERS[kind].from_pretrained(folder, unet)
