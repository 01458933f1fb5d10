"""The ControlNet adapter (Zhang et al. 2023, as FeatInv, arXiv 2505.21032, uses it)."""

from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sacd.adapters.encoder import FeatureEncoder
from sacd.errors import SacdError, unknown_name
from sacd.features.whitening import Whitening
from sacd.files import atomic, read_json, write_json


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


class ControlNetAdapter(nn.Module):
    """A trainable copy of the U-Net's encoder whose outputs are added to the frozen U-Net."""

    def __init__(self, config: AdapterConfig, whitening: Whitening, unet: UNet2DConditionModel):
        super().__init__()
        self.config = config
        self.control = ControlNetModel.from_unet(unet)
        # The hint is made by our encoder, once an image and not once a step.
        self.control.controlnet_cond_embedding = nn.Identity()
        self.encoder = FeatureEncoder(
            whitening,
            pooled=config.conditioning == "pooled",
            grid=config.grid,
            hidden=config.hidden,
            width=unet.config.block_out_channels[0],
        )

    @classmethod
    def from_pretrained(cls, folder: Path, unet: UNet2DConditionModel) -> "ControlNetAdapter":
        """Load a folder made by `save` for the prior's `unet`; raises `SacdError`."""
        raw = read_json(folder / "config.json")
        try:
            config = AdapterConfig(
                **{**raw, "feature_shape": tuple(raw["feature_shape"]), "grid": tuple(raw["grid"])}
            )
        except (KeyError, TypeError) as error:
            raise SacdError(f"{folder}: config.json is not an adapter's ({error}).") from error
        adapter = cls(config, Whitening.blank(config.feature_shape[0]), unet)
        try:
            adapter.load_state_dict(load_file(folder / "adapter.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise SacdError(f"{folder}: not an adapter for this prior: {error}") from error
        return adapter.float().eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write configuration and weights: fp16, but the whitening in full."""
        tensors = {name: p.half().contiguous() for name, p in self.named_parameters()}
        tensors |= {name: b.contiguous() for name, b in self.named_buffers()}
        with atomic(folder) as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "adapter.safetensors")
            write_json(temporary / "config.json", asdict(self.config))

    def hint(self, features: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Features (N, C, h, w) -> hint; rows where `dropped` is true get the null feature."""
        return self.encoder(features, dropped)

    def null_hint(self, count: int) -> Tensor:
        """The hint of the null feature for `count` images."""
        return self.encoder.null_hint(count)

    def forward(
        self,
        unet: UNet2DConditionModel,
        noisy: Tensor,
        times: Tensor,
        prompts: Tensor,
        hint: Tensor,
    ) -> Tensor:
        """The steered U-Net's prediction for noised latents (N, c, H, W)."""
        down, middle = self.control(noisy, times, prompts, controlnet_cond=hint, return_dict=False)
        return unet(
            noisy,
            times,
            prompts,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


ADAPTERS: dict[str, type[ControlNetAdapter]] = {"controlnet": ControlNetAdapter}


def load_adapter(folder: Path, unet: UNet2DConditionModel) -> ControlNetAdapter:
    """Load an adapter of any registered type."""
    kind = read_json(folder / "config.json").get("type")
    if kind not in ADAPTERS:
        raise unknown_name("adapter type", str(kind), ADAPTERS, f"{folder}/config.json")
    return ADAPTERS[kind].from_pretrained(folder, unet)
