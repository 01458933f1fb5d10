"""Supervised training of a backbone on prepared images."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sacd.backbones.backbone import BackboneConfig, create_network
from sacd.optimization import Progress, Recipe, Trained, train


def train_backbone(
    config: BackboneConfig,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    color_jitter: float,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[nn.Module, Trained]:
    """Train `config`'s network by cross-entropy (label smoothing 0.1).

    images: uint8 (N, 3, H, W) of the network's input size; labels: int64 (N,). Returns the network
    with averaged weights and the record of the run.
    """
    torch.manual_seed(recipe.seed)
    network = create_network(config).to(device).to(memory_format=torch.channels_last).train()
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (config.mean, config.std))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        batch = augment(images[rows].float() / 255, color_jitter, generator).to(device)
        logits = network((batch - mean) / std)
        target = labels[rows].to(device)
        accuracy = float((logits.argmax(1) == target).float().mean())
        value = F.cross_entropy(logits.float(), target, label_smoothing=0.1)
        return value, {"train_top1": accuracy}

    parameters = dict(network.named_parameters())
    trained = train(parameters, loss, recipe, work, progress)
    network.load_state_dict(trained.weights, strict=False)
    _renew_batch_statistics(network, images, config, recipe, device)
    return network.eval(), trained


def augment(images: Tensor, color_jitter: float, generator: torch.Generator) -> Tensor:
    """Random flips and, with strength `color_jitter`, gains of each colour channel.

    images: (N, 3, H, W) in [0, 1]; every image gets its own draw.
    """
    count = len(images)
    flip = torch.rand(count, generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    if color_jitter > 0:
        gains = 1 + color_jitter * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
        images = (images * gains).clamp(0, 1)
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
