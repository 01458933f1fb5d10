"""Supervised training of a backbone on prepared images."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from sacd.backbones.backbone import BackboneConfig
from sacd.backbones.layout import to_nchw
from sacd.optimization import Progress, Recipe, Step, Trained, evenly_spaced, train


@dataclass(frozen=True)
class Augmentation:
    """What training images undergo besides random flips; 0 leaves a part out.

    `color_jitter` is the largest relative change of a colour channel's gain, `blur` the largest
    deviation of a Gaussian in pixels, `noise` the largest deviation of pixel noise (images are in
    [0, 1]). Blur and noise keep a network from resting its answer on the finest detail, which no
    autoencoder returns.
    """

    color_jitter: float = 0.0
    blur: float = 0.0
    noise: float = 0.0


FLIPS = Augmentation()  # flips and nothing else


def train_backbone(
    config: BackboneConfig,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    recipe: Recipe,
    augmentation: Augmentation,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Train a network, from the weights it has, by cross-entropy (label smoothing 0.1).

    images: uint8 (N, 3, H, W) of the network's input size; labels: int64 (N,). With masks, bool
    (N, H, W), a linear layer on the last map also learns to name the class at every location inside
    the object and "background" outside; it is thrown away afterwards. Networks that start from
    patches (ConvNeXt, Swin) leave the plateau of chance many times sooner by it. `network` ends
    with averaged weights, in evaluation mode. Returns the record of the run.
    """
    network.to(device).to(memory_format=torch.channels_last).requires_grad_(True).train()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (config.mean, config.std))
    parameters = {f"network.{name}": p for name, p in network.named_parameters()}
    dense = None
    if masks is not None:
        dense = _dense_head(network, images, int(labels.max()) + 2).to(device)
        parameters |= {f"dense.{name}": p for name, p in dense.named_parameters()}

    def read(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        batch = images[rows].float() / 255
        if masks is not None:  # as a fourth channel, so that flips move it with the image
            batch = torch.cat([batch, masks[rows, None].float()], dim=1)
        return augment(batch, augmentation, generator), labels[rows]

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        batch, target = step.batch
        final = network.forward_features((batch[:, :3] - mean) / std)  # type: ignore[operator]
        logits = network.forward_head(final)  # type: ignore[operator]
        value = F.cross_entropy(logits.float(), target, label_smoothing=0.1)
        accuracy = float((logits.argmax(1) == target).float().mean())
        if dense is not None:
            located = dense(to_nchw(final, network)).float()
            inside = F.adaptive_avg_pool2d(batch[:, 3:], located.shape[-2:])[:, 0] > 0.5
            background = located.shape[1] - 1
            wanted = torch.where(inside, target[:, None, None], background)
            value = value + F.cross_entropy(located, wanted)
        return value, {"train_top1": accuracy}

    trained = train(parameters, read, loss, recipe, work, progress)
    for name, parameter in network.named_parameters():
        parameter.data.copy_(trained.weights[f"network.{name}"])
    _renew_batch_statistics(network, images, config, recipe, device)
    network.eval()
    return trained


@torch.no_grad()
def _dense_head(network: nn.Module, images: Tensor, classes: int) -> nn.Conv2d:
    """A linear classifier of locations, for the channels of the network's last map."""
    probe = torch.zeros(1, *images.shape[1:], device=next(network.parameters()).device)
    was_training = network.training
    final = network.eval().forward_features(probe)  # type: ignore[operator]
    network.train(was_training)
    return nn.Conv2d(to_nchw(final, network).shape[1], classes, 1)


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random flips and what `augmentation` says, with a draw of its own for every image.

    images: (N, 3 or more, H, W) in [0, 1]. Channels after the third (masks) are only flipped.
    """
    count = len(images)
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    colors = images[:, :3]
    if augmentation.color_jitter > 0:
        gains = 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1
        colors = (colors * (1 + augmentation.color_jitter * gains)).clamp(0, 1)
    if augmentation.blur > 0:
        # A mixture of sharp and blurred: any deviation up to the largest, for one convolution.
        share = torch.rand(count, 1, 1, 1, generator=generator)
        colors = colors.lerp(_blurred(colors, augmentation.blur), share)
    if augmentation.noise > 0:
        deviation = augmentation.noise * torch.rand(count, 1, 1, 1, generator=generator)
        colors = colors + deviation * torch.randn(colors.shape, generator=generator)
        colors = colors.clamp(0, 1)
    return torch.cat([colors, images[:, 3:]], dim=1)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    # Images are continued by their reflection, which is as wide as they are.
    size = 2 * min(math.ceil(2 * deviation), min(images.shape[-2:]) - 1) + 1
    return gaussian_blur(images, [size, size], [deviation, deviation])


@torch.no_grad()
def _renew_batch_statistics(
    network: nn.Module, images: Tensor, config: BackboneConfig, recipe: Recipe, device: torch.device
) -> None:
    """Recompute batch-norm statistics: those of training belong to the unaveraged weights."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean over the batches below
    network.train()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (config.mean, config.std))
    some = evenly_spaced(images, 32 * recipe.batch)
    whole = len(some) // recipe.batch * recipe.batch  # a rest would count as much as a batch
    for batch in some[: whole or None].split(recipe.batch):
        network((batch.to(device).float() / 255 - mean) / std)
