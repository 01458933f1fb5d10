"""Inversion of images with a trained adapter: the library's front door."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from sacd.adapters.adapter import Adapter
from sacd.adapters.registry import load_adapter
from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError
from sacd.numerics import numerics
from sacd.prior.latents import decode_latents, round_trip
from sacd.prior.prior import Prior
from sacd.prior.vae import vae_scale_factor
from sacd.provenance import require_made_of
from sacd.sampling.noise import initial_noise
from sacd.sampling.refinement import Refinement, refine_latents
from sacd.sampling.sampler import Interval, sample_latents


class Drawing(TypedDict, total=False):
    """How to draw: arguments of `Inverter.draw_latents`, which says what they are by default."""

    steps: int
    guidance: float
    guidance_interval: Interval
    energy_guidance: float
    refinement: Refinement | None


class Inverter:
    """Samples images whose features match given ones.

    Attributes:
        prior, adapter: what draws.
        backbone: what sees; None where features are given directly.
        image_size: side of the images in pixels.
    """

    def __init__(
        self,
        prior: Prior,
        adapter: Adapter,
        backbone: Backbone | None,
        device: torch.device,
        precision: str = "bf16",
    ):
        self.prior, self.adapter, self.backbone = prior, adapter, backbone
        self.device, self.precision = device, precision
        # Not the autoencoder's sample_size, which a prior for smaller images may carry on.
        self.image_size: int = adapter.config.grid[0] * vae_scale_factor(prior.vae)
        self._latent_shape = (prior.vae.config.latent_channels, *adapter.config.grid)

    @classmethod
    def from_pretrained(
        cls, adapter: Path | str, experiment: Path | str | None = None, device: str = "cpu"
    ) -> "Inverter":
        """Load an adapter folder with the prior and backbone of its experiment.

        `experiment` is the folder that holds `models/`; without it, the one in which the adapter
        lies (`<experiment>/adapters/<backbone>/<adapter>`). Raises `SacdError`.
        """
        folder = Path(adapter)
        if not (folder / "config.json").exists():
            raise SacdError(
                f"{folder}: not an adapter's folder (no config.json); "
                f"it is <experiment>/adapters/<backbone>/<adapter>."
            )
        root = Path(experiment) if experiment is not None else experiment_of(folder)
        require_made_of(folder, root)
        target = torch.device(device)
        prior = Prior.from_pretrained(root / "models/prior").to(target)
        loaded = load_adapter(folder, prior.unet).to(target)
        backbone = Backbone.from_pretrained(root / "models/backbones" / loaded.config.backbone)
        if backbone.config.layer != loaded.config.layer:
            raise SacdError(
                f"{folder}: was trained on layer '{loaded.config.layer}', but "
                f"{root / 'models/backbones' / loaded.config.backbone} gives "
                f"'{backbone.config.layer}'."
            )
        return cls(prior, loaded, backbone.to(target), target)

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 images (N, 3, H, W) -> features (N, C, h, w), logits (N, classes) or None.

        As the inverter's backbone sees them.
        """
        return self._require_backbone()(images.to(self.device).float() / 255)

    def features(self, images: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) -> features (N, C, h, w) of the inverter's backbone."""
        return self.look(images)[0]

    def round_trip(self, images: Tensor) -> Tensor:
        """uint8 images (N, 3, S, S) through the prior's autoencoder, which loses some."""
        return round_trip(self.prior.vae, images, self.device)

    def sample(
        self,
        features: Tensor | None,
        keys: Sequence[tuple[str, int]],
        seed: int = 0,
        **drawing: Unpack[Drawing],
    ) -> Tensor:
        """Draw uint8 images (N, 3, S, S): `draw_latents`, decoded."""
        return self.decode(self.draw_latents(features, keys, seed, **drawing))

    @torch.no_grad()
    def draw_latents(
        self,
        features: Tensor | None,
        keys: Sequence[tuple[str, int]],
        seed: int = 0,
        steps: int = 20,
        guidance: float = 5.0,
        guidance_interval: Interval = (0.0, 0.65),
        energy_guidance: float = 0.5,
        refinement: Refinement | None = None,
    ) -> Tensor:
        """Draw latents (N, c, H, W), one for each (image id, sample index) of `keys`.

        features: (N, C, h, w) rows for the same keys, or None for the null feature. For `steps` and
        all guidance see `sample_latents`. A `refinement` needs the backbone.
        """
        noise = initial_noise(seed, keys, self._latent_shape).to(self.device)
        conditioned = None if features is None else features.to(self.device)
        with numerics(self.device, self.precision):
            latents = sample_latents(
                self.prior, self.adapter, conditioned, noise,
                steps, guidance, guidance_interval, energy_guidance,
            )  # fmt: skip
            if refinement is not None and conditioned is not None:
                latents = refine_latents(
                    self.prior, self._require_backbone(), latents, conditioned, refinement
                )
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, c, H, W) -> uint8 images (N, 3, S, S), on the CPU."""
        with numerics(self.device, self.precision):
            return decode_latents(self.prior.vae, latents, self.device)

    def invert(
        self,
        images: Tensor,
        samples: int = 4,
        seed: int = 0,
        *,
        ids: Sequence[str] | None = None,
        **drawing: Unpack[Drawing],
    ) -> Tensor:
        """Reconstruct uint8 images (N, 3, H, W) from their features: uint8 (N, K, 3, S, S).

        `ids` name the images in their noise; without them, their rows do. For `drawing` see
        `draw_latents`.
        """
        names = ids if ids is not None else [str(row) for row in range(len(images))]
        keys = [(name, k) for name in names for k in range(samples)]
        features = self.features(images).repeat_interleave(samples, 0)
        drawn = self.sample(features, keys, seed, **drawing)
        return drawn.unflatten(0, (len(images), samples))

    def _require_backbone(self) -> Backbone:
        if self.backbone is None:
            raise SacdError("This inverter was made without a backbone: give features instead.")
        return self.backbone


def experiment_of(adapter: Path) -> Path:
    """The folder of the experiment in which an adapter lies; raises `SacdError` without one."""
    parents = adapter.resolve().parents
    if len(parents) < 3:
        raise SacdError(
            f"{adapter}: no experiment's folder above it; "
            f"an adapter lies in <experiment>/adapters/<backbone>/<adapter>."
        )
    return parents[2]
