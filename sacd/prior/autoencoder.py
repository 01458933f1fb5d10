"""Training of the prior's autoencoder: judged by what networks see, not by pixels alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sacd.backbones.backbone import Backbone
from sacd.backbones.layout import to_nchw
from sacd.backbones.training import FLIPS, augment
from sacd.errors import unknown_name
from sacd.networks import create_diffusers
from sacd.numerics import conv_format
from sacd.optimization import Progress, Read, Recipe, Step, Trained, evenly_spaced, train


class FeatureLoss(nn.Module):
    """Normalised squared feature differences of a network's inner layers.

    For every layer, features are scaled to unit length over channels at each location, and the
    squared difference is summed over channels and averaged over locations (as in LPIPS, Zhang et
    al. 2018, equation 1, with all channel weights 1). Raises `SacdError` for an unknown layer.
    """

    def __init__(self, backbone: Backbone, layers: list[str]):
        super().__init__()
        self.backbone = backbone
        self._features: list[Tensor] = []
        modules = dict(backbone.network.named_modules())
        for layer in layers:
            if layer not in modules:
                raise unknown_name(f"layer of {backbone.config.model}", layer, modules)
            modules[layer].register_forward_hook(self._tap)

    def forward(self, ours: Tensor, truth: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> scalar."""
        with torch.no_grad():
            wanted = self._collect(truth)
        distances = [
            ((F.normalize(a.float()) - F.normalize(b.float())) ** 2).sum(1).mean()
            for a, b in zip(self._collect(ours), wanted, strict=True)
        ]
        return torch.stack(distances).sum()

    def _tap(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # A copy: what follows may change the map in place, as activations and shortcuts do.
        self._features.append(to_nchw(output.clone(), self.backbone.network))

    def _collect(self, images: Tensor) -> list[Tensor]:
        self._features = []
        self.backbone(images)
        return self._features


def create_autoencoder(options: dict[str, Any], image_size: int) -> AutoencoderKL:
    """A diffusers AutoencoderKL; `options` are its constructor's (channels, widths, depths)."""
    levels = len(options["block_out_channels"])
    return create_diffusers(
        AutoencoderKL,
        options,
        in_channels=3,
        out_channels=3,
        sample_size=image_size,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    )


def train_autoencoder(
    options: dict[str, Any],
    images: Tensor,
    recipe: Recipe,
    feature_loss: Callable[[Tensor, Tensor], Tensor],
    feature_weight: float,
    kl_weight: float,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[AutoencoderKL, Trained]:
    """Train with L1 + L2 + `feature_weight` x feature loss + `kl_weight` x KL divergence.

    images: uint8 (N, 3, H, W). The divergence, a mean over dimensions in nats, decides how large
    the posterior's noise grows, and so what errors of a prior the decoder forgives: with nearly
    none (1e-6), deviations of 0.2 in latents of unit deviation bent every outline. The returned
    autoencoder has averaged weights and a `scaling_factor` that gives latents unit deviation.
    """
    torch.manual_seed(recipe.seed)
    vae = create_autoencoder(options, images.shape[-1]).to(
        device, memory_format=conv_format(device)
    )

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        (truth,) = step.batch
        truth = truth.contiguous(memory_format=conv_format(device))
        posterior = vae.encode(2 * truth - 1).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step.generator).to(device)
        ours = (vae.decode(posterior.mean + posterior.std * noise).sample.float() + 1) / 2
        l1, l2 = (ours - truth).abs().mean(), ((ours - truth) ** 2).mean()
        seen = feature_loss(ours, truth)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        value = l1 + l2 + feature_weight * seen + kl_weight * kl
        psnr = -10 * l2.detach().log10()
        return value, {"psnr_db": float(psnr), "feature_loss": float(seen.detach())}

    parameters = dict(vae.named_parameters())
    trained = train(parameters, _flipped(images, recipe.batch), loss, recipe, work, progress)
    vae.load_state_dict(trained.weights)
    vae.eval().requires_grad_(False)
    some = evenly_spaced(images, 8 * recipe.batch)
    vae.register_to_config(scaling_factor=_unit_scale(vae, some, device))
    return vae, trained


def refine_decoder(
    vae: AutoencoderKL,
    images: Tensor,
    recipe: Recipe,
    feature_loss: Callable[[Tensor, Tensor], Tensor],
    feature_weight: float,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Train the decoder further, with L1 + `feature_weight` x feature loss.

    images: uint8 (N, 3, H, W). `vae` ends with averaged weights; latents, and so a prior trained on
    them, stay as they are.
    """
    vae.to(device, memory_format=conv_format(device))
    parameters = {
        name: p.requires_grad_(True)
        for name, p in vae.named_parameters()
        if name.startswith(("decoder.", "post_quant_conv."))
    }

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        (truth,) = step.batch
        with torch.no_grad():
            posterior = vae.encode(2 * truth - 1).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step.generator).to(device)
        ours = (vae.decode(posterior.mean + posterior.std * noise).sample.float() + 1) / 2
        seen = feature_loss(ours, truth)
        value = (ours - truth).abs().mean() + feature_weight * seen
        return value, {"feature_loss": float(seen.detach())}

    trained = train(parameters, _flipped(images, recipe.batch), loss, recipe, work, progress)
    vae.load_state_dict(trained.weights, strict=False)
    vae.eval().requires_grad_(False)
    return trained


def _flipped(images: Tensor, batch: int) -> Read:
    """Reads batches of images uint8 (N, 3, H, W), half of them flipped, in [0, 1]."""

    def read(generator: torch.Generator) -> tuple[Tensor]:
        rows = torch.randint(len(images), (batch,), generator=generator)
        return (augment(images[rows].float() / 255, FLIPS, generator),)

    return read


@torch.no_grad()
def _unit_scale(vae: AutoencoderKL, images: Tensor, device: torch.device) -> float:
    means = [
        vae.encode(2 * (batch.to(device).float() / 255) - 1).latent_dist.mean
        for batch in images.split(32)
    ]
    return round(1 / float(torch.cat(means).std()), 6)
