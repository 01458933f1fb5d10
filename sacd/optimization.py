"""One training loop for every network here: AdamW, EMA, bf16, clipping, resumable to the step.

All randomness of step i comes from a generator seeded by (seed, i), so a run that was killed and
started again ends with the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sacd.errors import SacdError
from sacd.numerics import numerics
from sacd.tensors import reading, write_tensors

CHECKPOINT = "checkpoint.safetensors"

Progress = Callable[[Iterator[int], int], Iterator[int]]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    `precision` is that of `sacd.numerics` (weights stay fp32); `schedule` is "cosine" (to zero,
    after the warm-up) or "constant"; `ema` is the decay of the averaged weights, 0 for none.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int
    schedule: str
    weight_decay: float
    ema: float
    clip: float
    precision: str
    seed: int


@dataclass
class Trained:
    """Outcome of a run: averaged weights and what was logged, a dictionary each log interval."""

    weights: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on (seed, step) alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def evenly_spaced(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, spread over all: splits may be sorted by class."""
    count = min(count, len(rows))
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]


def train(
    parameters: dict[str, nn.Parameter],
    loss: Loss,
    recipe: Recipe,
    work: Path,
    progress: Progress = lambda items, total: items,
    checkpoint_seconds: float = 60.0,
    log_every: int = 25,
    check: Callable[[dict[str, Tensor]], dict[str, float]] | None = None,
) -> Trained:
    """Minimise `loss(step, generator)` over `parameters`.

    `loss` returns the scalar to minimise and named numbers to log; `check`, called at every fifth
    log with the averaged weights, adds more. `work` keeps the checkpoint of an unfinished run; its
    name must be unique to everything that determines the run. Raises `SacdError` on a non-finite
    loss. `parameters` end with the last, not the averaged, weights.
    """
    optimizer = torch.optim.AdamW(
        _decay_groups(parameters, recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    averaged = {name: value.detach().clone() for name, value in parameters.items()}
    done, history, seconds = _load_checkpoint(work, parameters, averaged, optimizer)
    device = next(iter(parameters.values())).device
    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    for step in progress(iter(range(done, recipe.steps)), recipe.steps - done):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(recipe, step)
        with numerics(device, recipe.precision):
            value, numbers = loss(step, step_generator(recipe.seed, step))
        if not bool(value.isfinite()):
            raise SacdError(
                f"The loss is {value.item()} at step {step}: lower the learning rate "
                f"(now {recipe.learning_rate}) or use precision fp32."
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), recipe.clip)
        optimizer.step()
        _average(averaged, parameters, recipe.ema, step)
        for name, number in {"loss": float(value.detach()), **numbers}.items():
            sums[name] = sums.get(name, 0.0) + number
        if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
            count = (step % log_every) + 1
            entry = {"step": step + 1.0} | {k: v / count for k, v in sums.items()}
            due = (step + 1) % (5 * log_every) == 0 or step + 1 == recipe.steps
            history.append(entry | (check(averaged) if check and due else {}))
            sums = {}
            # Only between two log intervals, so that a resumed history has no broken mean.
            if time.monotonic() - saved > checkpoint_seconds:
                saved = time.monotonic()
                elapsed = seconds + saved - started
                _save_checkpoint(work, parameters, averaged, optimizer, step + 1, history, elapsed)
    return Trained(averaged, history, seconds + time.monotonic() - started)


def _decay_groups(parameters: dict[str, nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only, as is usual for norms and biases."""
    values = list(parameters.values())
    return [
        {"params": [p for p in values if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in values if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _schedule(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return 1.0
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _average(
    averaged: dict[str, Tensor], parameters: dict[str, nn.Parameter], ema: float, step: int
) -> None:
    # A short memory at first, so that the average does not drag the initial weights along.
    decay = min(ema, (1 + step) / (10 + step))
    old, new = list(averaged.values()), [p.detach() for p in parameters.values()]
    torch._foreach_lerp_(old, new, 1 - decay)


def _save_checkpoint(
    work: Path,
    parameters: dict[str, nn.Parameter],
    averaged: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    history: list[dict[str, float]],
    seconds: float,
) -> None:
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"weights.{name}"] = parameter.detach().contiguous()
        tensors[f"averaged.{name}"] = averaged[name].contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value.contiguous()
    progress = {"step": step, "history": history, "seconds": seconds}
    write_tensors(work / CHECKPOINT, tensors, progress=progress)


@torch.no_grad()
def _load_checkpoint(
    work: Path,
    parameters: dict[str, nn.Parameter],
    averaged: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> tuple[int, list[dict[str, float]], float]:
    path = work / CHECKPOINT
    if not path.exists():
        return 0, [], 0.0
    with reading(path, "a checkpoint") as file:
        progress = file.metadata("progress")
        for name, parameter in parameters.items():
            parameter.copy_(file[f"weights.{name}"])
            averaged[name].copy_(file[f"averaged.{name}"])
            optimizer.state[parameter] = {
                key: file[f"optimizer.{key}.{name}"].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return progress["step"], progress["history"], progress["seconds"]
