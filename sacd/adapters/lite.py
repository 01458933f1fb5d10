"""The lite adapter: a feature pyramid, independent of time, computed once an image.

After T2I-Adapter (Mou et al. 2023, arXiv 2302.08453), but added to the U-Net's skip connections and
middle, as ControlNet does, instead of inside its blocks: that fits every U-Net of diffusers.
"""

import math

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from sacd.adapters.adapter import Adapter, AdapterConfig, Hint, Residuals
from sacd.adapters.encoder import NORM_GROUPS
from sacd.features.whitening import Whitening


class LiteAdapter(Adapter):
    """Residuals for the U-Net's skip connections and middle from the features alone."""

    def __init__(self, config: AdapterConfig, whitening: Whitening, unet: UNet2DConditionModel):
        super().__init__(config, whitening, unet)
        widths = list(unet.config.block_out_channels)
        self.levels = nn.ModuleList(
            ResnetBlock2D(
                in_channels=before,
                out_channels=width,
                temb_channels=None,
                groups=math.gcd(NORM_GROUPS, before),
                groups_out=math.gcd(NORM_GROUPS, width),
            )
            for before, width in zip([widths[0], *widths[:-1]], widths, strict=True)
        )
        self._skips = skip_connections(unet)
        self.outputs = nn.ModuleList(
            _zero_convolution(widths[level], width) for level, width in self._skips
        )
        self.middle = _zero_convolution(widths[-1], widths[-1])

    def hint_of(self, encoded: Tensor) -> Hint:
        """The residuals of every skip connection, and last that of the middle."""
        pyramid, values = [], encoded
        for number, block in enumerate(self.levels):
            # Odd sizes are rounded up, as the U-Net's own strided convolutions do.
            values = block(F.avg_pool2d(values, 2, ceil_mode=True) if number else values, None)
            pyramid.append(values)
        skips = [
            output(pyramid[level])
            for output, (level, _) in zip(self.outputs, self._skips, strict=True)
        ]
        return (*skips, self.middle(pyramid[-1]))

    def residuals(self, noisy: Tensor, times: Tensor, prompts: Tensor, hint: Hint) -> Residuals:
        """The hint as it is."""
        return hint


def skip_connections(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(level, width) of a U-Net's skip connections, in the order in which it makes them.

    Level i has 2^i times fewer pixels a side than the latents. A block's last skip connection lies
    behind its downsampling, so on the next level.
    """
    widths, layers = list(unet.config.block_out_channels), unet.config.layers_per_block
    counts = [layers] * len(widths) if isinstance(layers, int) else list(layers)
    skips = [(0, widths[0])]
    for level, (width, count) in enumerate(zip(widths, counts, strict=True)):
        skips += [(level, width)] * count
        if level + 1 < len(widths):
            skips.append((level + 1, width))
    return skips


def _zero_convolution(channels: int, width: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as zero, so that training starts from the prior as it is."""
    convolution = nn.Conv2d(channels, width, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution
