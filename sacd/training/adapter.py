"""Training of an adapter on cached latents and features; the prior stays frozen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sacd import parallel
from sacd.adapters.adapter import Adapter
from sacd.numerics import numerics
from sacd.optimization import Progress, Recipe, Step, Trained, step_generator, train
from sacd.prior.diffusion import noised
from sacd.prior.prior import Prior

CHECK_REPEATS = 2
# See `noised`. What features decide about a scene, they decide at high noise.
NOISE_EXPONENT = 0.7


@dataclass(frozen=True)
class Pairs:
    """Latents and features of the same images, by row."""

    count: int
    latents: Callable[[list[int]], Tensor]
    features: Callable[[list[int]], Tensor]


def train_adapter(
    adapter: Adapter,
    prior: Prior,
    pairs: Pairs,
    held_out: tuple[Tensor, Tensor, Tensor],
    recipe: Recipe,
    condition_dropout: float,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Minimise the prior's own denoising loss given the features (FeatInv, section 3).

    With probability `condition_dropout` an image's features are replaced by the null feature, which
    makes the unconditional branch for guidance. held_out: (latents, features, shuffled) of
    validation images for `condition_check`. The adapter ends with averaged weights.
    """
    parameters = dict(adapter.requires_grad_(True).named_parameters())
    unet, scheduler = prior.unet, prior.scheduler

    def read(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(pairs.count, (recipe.batch,), generator=generator)
        rows = parallel.share(chosen).tolist()
        dropped = parallel.share(torch.rand(recipe.batch, generator=generator) < condition_dropout)
        return pairs.latents(rows), pairs.features(rows), dropped

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        latents, features, dropped = step.batch
        clean = latents.float()
        noisy, times, target = noised(scheduler, clean, step.generator, NOISE_EXPONENT, shared=True)
        hint = adapter.hint(features, dropped)
        predicted = adapter(unet, noisy, times, prior.prompts(len(noisy)), hint)
        return F.mse_loss(predicted.float(), target), {}

    def check(averaged: dict[str, Tensor]) -> dict[str, float]:
        current = {name: p.detach().clone() for name, p in parameters.items()}
        _copy(averaged, adapter)
        losses = condition_check(adapter, prior, *held_out, recipe, device)
        _copy(current, adapter)
        return losses

    trained = train(parameters, read, loss, recipe, work, progress, check=check)
    _copy(trained.weights, adapter)
    adapter.eval().requires_grad_(False)
    return trained


@torch.no_grad()
def condition_check(
    adapter: Adapter,
    prior: Prior,
    latents: Tensor,
    features: Tensor,
    shuffled: Tensor,
    recipe: Recipe,
    device: torch.device,
) -> dict[str, float]:
    """Denoising loss on fixed images with the true, shuffled and null feature.

    `shuffled` are features of other images, of other classes where that can be. The same noise and
    timesteps serve all three, so the losses differ by the feature alone. `margin` is how far true
    lies below shuffled, and `margin_error` its standard error over images: see `uses_condition`.
    """
    hints = {
        "loss_true": adapter.hint(features.to(device)),
        "loss_shuffled": adapter.hint(shuffled.to(device)),
        "loss_null": adapter.null_hint(len(features)),
    }
    losses = {name: torch.zeros(len(latents), device=device) for name in hints}
    for repeat in range(CHECK_REPEATS):
        generator = step_generator(recipe.seed, 2**31 + repeat)
        clean = latents.float().to(device)
        noisy, times, target = noised(prior.scheduler, clean, generator, NOISE_EXPONENT)
        for name, hint in hints.items():
            with numerics(device, recipe.precision):
                predicted = adapter(prior.unet, noisy, times, prior.prompts(len(noisy)), hint)
            error = F.mse_loss(predicted.float(), target, reduction="none").mean((1, 2, 3))
            losses[name] += error / CHECK_REPEATS
    margin = losses["loss_shuffled"] - losses["loss_true"]
    return {name: float(values.mean()) for name, values in losses.items()} | {
        "margin": float(margin.mean()),
        "margin_error": float(margin.std() / math.sqrt(len(margin))),
    }


def uses_condition(history: list[dict[str, float]]) -> bool:
    """Whether the last check found the true feature better than a shuffled one.

    Better by more than two standard errors, so that no chance difference passes.
    """
    return history[-1]["margin"] > 2 * history[-1]["margin_error"]


@torch.no_grad()
def _copy(weights: dict[str, Tensor], adapter: Adapter) -> None:
    for name, parameter in adapter.named_parameters():
        parameter.copy_(weights[name])
