"""The ControlNet adapter (Zhang et al. 2023, as FeatInv, arXiv 2505.21032, uses it)."""

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from sacd.adapters.adapter import Adapter, AdapterConfig, Hint, Residuals
from sacd.features.whitening import Whitening


class ControlNetAdapter(Adapter):
    """A trainable copy of the U-Net's encoder whose outputs are added to the frozen U-Net."""

    def __init__(self, config: AdapterConfig, whitening: Whitening, unet: UNet2DConditionModel):
        super().__init__(config, whitening, unet)
        self.control = ControlNetModel.from_unet(unet)
        # The hint is made by our encoder, once an image and not once a step.
        self.control.controlnet_cond_embedding = nn.Identity()

    def hint_of(self, encoded: Tensor) -> Hint:
        """The copy sees latents and time with the features, so nothing is known before a step."""
        return (encoded,)

    def residuals(self, noisy: Tensor, times: Tensor, prompts: Tensor, hint: Hint) -> Residuals:
        """The copy's outputs for the noised latents."""
        skips, middle = self.control(
            noisy, times, prompts, controlnet_cond=hint[0], return_dict=False
        )
        return (*skips, middle)

    def compile_residuals(self) -> None:
        """The copy."""
        self.control.compile(dynamic=False)
