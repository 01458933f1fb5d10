"""Supervised training of a backbone on prepared images."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sacd.backbones.backbone import BackboneConfig, create_network, to_nchw
from sacd.optimization import Progress, Recipe, Trained, train


def train_backbone(
    config: BackboneConfig,
    images: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    recipe: Recipe,
    color_jitter: float,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[nn.Module, Trained]:
    """Train `config`'s network by cross-entropy (label smoothing 0.1).

    images: uint8 (N, 3, H, W) of the network's input size; labels: int64 (N,). With masks, bool
    (N, H, W), a linear layer on the last map also learns to name the class at every location inside
    the object and "background" outside; it is thrown away afterwards. Networks that start from
    patches (ConvNeXt, Swin) leave the plateau of chance many times sooner by it. Returns the
    network with averaged weights and the record of the run.
    """
    torch.manual_seed(recipe.seed)
    network = create_network(config).to(device).to(memory_format=torch.channels_last).train()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (config.mean, config.std))
    parameters = {f"network.{name}": p for name, p in network.named_parameters()}
    dense = None
    if masks is not None:
        dense = _dense_head(network, images, int(labels.max()) + 2).to(device)
        parameters |= {f"dense.{name}": p for name, p in dense.named_parameters()}

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        batch, target = images[rows].float() / 255, labels[rows].to(device)
        if masks is not None:  # as a fourth channel, so that flips move it with the image
            batch = torch.cat([batch, masks[rows, None].float()], dim=1)
        batch = augment(batch, color_jitter, generator).to(device)
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

    trained = train(parameters, loss, recipe, work, progress)
    for name, parameter in network.named_parameters():
        parameter.data.copy_(trained.weights[f"network.{name}"])
    _renew_batch_statistics(network, images, config, recipe, device)
    return network.eval(), trained


@torch.no_grad()
def _dense_head(network: nn.Module, images: Tensor, classes: int) -> nn.Conv2d:
    """A linear classifier of locations, for the channels of the network's last map."""
    probe = torch.zeros(1, *images.shape[1:], device=next(network.parameters()).device)
    was_training = network.training
    final = network.eval().forward_features(probe)  # type: ignore[operator]
    network.train(was_training)
    return nn.Conv2d(to_nchw(final, network).shape[1], classes, 1)


def augment(images: Tensor, color_jitter: float, generator: torch.Generator) -> Tensor:
    """Random flips and, with strength `color_jitter`, gains of each colour channel.

    images: (N, 3 or more, H, W) in [0, 1]; every image gets its own draw. Channels after the third
    (masks) are flipped but not coloured.
    """
    count = len(images)
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    if color_jitter > 0:
        gains = 1 + color_jitter * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
        colors = (images[:, :3] * gains).clamp(0, 1)
        images = torch.cat([colors, images[:, 3:]], dim=1)
    return images


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
    for start in range(0, min(len(images), 32 * recipe.batch), recipe.batch):
        batch = images[start : start + recipe.batch].to(device).float() / 255
        network((batch - mean) / std)
