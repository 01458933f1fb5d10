"""A feed-forward decoder from features to images (Dosovitskiy & Brox 2016, arXiv 1506.02753).

Its loss on pixels and on features is that of their second paper (arXiv 1602.02644), without the
adversary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor, nn

from sacd.backbones.backbone import Backbone
from sacd.features.distance import relative_distance
from sacd.features.whitening import Whitening, whiten
from sacd.networks import load_weights, read_config, save_network
from sacd.optimization import Progress, Recipe, Step, Trained, train

NORM_GROUPS = 8
WEIGHTS = "decoder.safetensors"


@dataclass(frozen=True)
class DecoderConfig:
    """What determines a decoder apart from its weights.

    `feature_shape` is (C, h, w) of the backbone's map, `grid` the (H, W) at which decoding begins;
    `widths` are the channels of the levels from the image's resolution down to the grid's.
    """

    backbone: str
    layer: str
    feature_shape: tuple[int, int, int]
    grid: tuple[int, int]
    widths: tuple[int, ...]


class FeatureDecoder(nn.Module):
    """Feature map (N, C, h, w) -> images (N, 3, S, S) in [0, 1]; S = H 2^(levels - 1)."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, config: DecoderConfig, whitening: Whitening):
        super().__init__()
        self.config = config
        self.register_buffer("mean", whitening.mean)
        self.register_buffer("matrix", whitening.matrix)
        self.decoder = Decoder(
            in_channels=config.feature_shape[0],
            out_channels=3,
            up_block_types=("UpDecoderBlock2D",) * len(config.widths),
            block_out_channels=config.widths,
            layers_per_block=1,
            norm_num_groups=NORM_GROUPS,
            mid_block_add_attention=False,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Decode; values are not clipped, so that training has gradients everywhere."""
        values = whiten(features, self.mean, self.matrix, self.config.grid)
        return (self.decoder(values).float() + 1) / 2

    @classmethod
    def from_pretrained(cls, folder: Path) -> "FeatureDecoder":
        """Load a folder made by `save`; raises `SacdError`."""
        config = read_config(DecoderConfig, folder)
        decoder = cls(config, Whitening.blank(config.feature_shape[0]))
        load_weights(decoder, folder / WEIGHTS, "a feature decoder")
        return decoder

    def save(self, folder: Path) -> None:
        """Write configuration and weights: fp16, but the whitening in full."""
        save_network(self, self.config, folder, WEIGHTS)


def train_decoder(
    decoder: FeatureDecoder,
    backbone: Backbone,
    count: int,
    features: Callable[[list[int]], Tensor],
    images: Callable[[list[int]], Tensor],
    feature_weight: float,
    recipe: Recipe,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Minimise squared error of pixels + `feature_weight` x relative feature distance.

    features, images: rows of the `count` training images, (N, C, h, w) and uint8 (N, 3, S, S). The
    decoder ends with averaged weights.
    """
    parameters = dict(decoder.requires_grad_(True).named_parameters())

    def read(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(count, (recipe.batch,), generator=generator).tolist()
        return features(rows), images(rows)

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        given, truth = step.batch
        decoded = decoder(given)
        pixels = F.mse_loss(decoded, truth.float() / 255)
        distance = relative_distance(backbone(decoded.clamp(0, 1))[0], given).mean()
        numbers = {"loss_pixels": float(pixels.detach()), "loss_features": float(distance.detach())}
        return pixels + feature_weight * distance, numbers

    trained = train(parameters, read, loss, recipe, work, progress)
    decoder.load_state_dict(trained.weights, strict=False)
    decoder.eval().requires_grad_(False)
    return trained
