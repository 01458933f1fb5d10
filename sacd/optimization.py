"""One training loop for every network here: AdamW, EMA, bf16, clipping, resumable to the step.

All randomness of step i comes from a generator seeded by (seed, i), so a run that was killed and
started again ends with the same weights as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sacd import parallel
from sacd.errors import SacdError
from sacd.numerics import numerics
from sacd.prefetch import prefetched
from sacd.stopping import Stopped, noting_requests
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


def summary(runs: Sequence[Trained]) -> dict[str, object]:
    """For a network's record: seconds of its trainings together, and what each logged last."""
    return {
        "seconds": round(sum(run.seconds for run in runs)),
        "history": [run.history[-1] for run in runs],
    }


@dataclass(frozen=True)
class Step:
    """What a loss is given: what was read for the step, and the generator as reading left it."""

    number: int
    batch: tuple[Tensor, ...]
    generator: torch.Generator


Read = Callable[[torch.Generator], tuple[Tensor, ...]]
Loss = Callable[[Step], tuple[Tensor, dict[str, float]]]


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on (seed, step) alone."""
    return torch.Generator().manual_seed(_hashed(seed, step))


def _hashed(*numbers: int) -> int:
    """A seed for torch."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def evenly_spaced(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, spread over all: splits may be sorted by class."""
    count = min(count, len(rows))
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).round().long()]


def train(
    parameters: dict[str, nn.Parameter],
    read: Read,
    loss: Loss,
    recipe: Recipe,
    work: Path,
    progress: Progress = lambda items, total: items,
    checkpoint_seconds: float = 120.0,
    log_every: int = 25,
    check: Callable[[dict[str, Tensor]], dict[str, float]] | None = None,
) -> Trained:
    """Minimise `loss(step)` over `parameters`.

    `read(generator)` gives a step's batch, tensors on the CPU; a thread calls it while the step
    before is computed, and the loss finds them on the device of the parameters. `loss` returns the
    scalar to minimise and named numbers to log; `check`, called at every fifth log with the
    averaged weights, adds more. `work` keeps the checkpoint of an unfinished run; its name must be
    unique to everything that determines the run. Raises `SacdError` on a non-finite loss or
    gradient, and `Stopped`, after a checkpoint, when asked to stop. `parameters` end with the last,
    not the averaged, weights.

    Of several processes (`sacd.parallel`) each takes the loss of its share of the batch; the steps
    are those of the whole batch.
    """
    parallel.join()
    parallel.require_even_shares(recipe.batch)
    run = _Run(parameters, recipe)
    run.load(work)
    device = next(iter(parameters.values())).device
    numbers = range(run.step, recipe.steps)
    saved = time.monotonic()
    with (
        noting_requests() as asked,
        parallel.averaging_gradients(parameters.values()) as finish_averaging,
        closing(prefetched(partial(_prepared, read, recipe.seed, n) for n in numbers)) as steps,
    ):
        for _, step in zip(progress(iter(numbers), len(numbers)), steps, strict=True):
            # Dropout and stochastic depth draw from torch's own generator, each process its own.
            torch.manual_seed(_hashed(recipe.seed, step.number, 1 + parallel.number()))
            batch = tuple(_sent(tensor, device) for tensor in step.batch)
            with numerics(device, recipe.precision):
                value, logged = loss(replace(step, batch=batch))
            run.descend(value, finish_averaging)
            run.add({"loss": float(value.detach()), **logged})
            ended = run.step == recipe.steps
            if run.step % log_every == 0 or ended:
                fifth = run.step % (5 * log_every) == 0 or ended
                run.log(device, check(run.averaged) if check and fifth else {})
            due = asked() or time.monotonic() - saved > checkpoint_seconds
            if not ended and parallel.anywhere(due, device):
                run.save(work, device)
                saved = time.monotonic()
                if parallel.anywhere(asked(), device):
                    raise Stopped(f"stopped after {run.step} of {recipe.steps} steps")
    return Trained(run.averaged, run.history, run.seconds)


def _prepared(read: Read, seed: int, number: int) -> Step:
    generator = step_generator(seed, number)
    return Step(number, read(generator), generator)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory, so that the program goes on meanwhile
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class _Run:
    """A training under way: all that a checkpoint keeps."""

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe):
        self.parameters, self.recipe = parameters, recipe
        self.averaged = {name: value.detach().clone() for name, value in parameters.items()}
        self.optimizer = torch.optim.AdamW(
            _decay_groups(parameters, recipe.weight_decay),
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._summed = 0  # steps since the last log
        self._seconds, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent on it so far, by all runs together."""
        return self._seconds + time.monotonic() - self._started

    def descend(self, loss: Tensor, finish_averaging: Callable[[], None]) -> None:
        """A step against the gradient of `loss`."""
        recipe = self.recipe
        self._require_finite("loss", loss)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(recipe, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        finish_averaging()
        norm = torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), recipe.clip)
        self._require_finite("gradient's norm", norm)
        self.optimizer.step()
        _average(self.averaged, self.parameters, recipe.ema, self.step)
        self.step += 1

    def _require_finite(self, what: str, value: Tensor) -> None:
        if not bool(value.isfinite()):
            raise SacdError(
                f"The {what} is {value.item()} at step {self.step}: lower the learning rate "
                f"(now {self.recipe.learning_rate}) or use precision fp32."
            )

    def add(self, numbers: dict[str, float]) -> None:
        """Note a step's numbers for the log."""
        self._sums = {name: self._sums.get(name, 0.0) + n for name, n in numbers.items()}
        self._summed += 1

    def log(self, device: torch.device, checked: dict[str, float]) -> None:
        """Write the means since the last entry into the history."""
        sums = parallel.mean(self._sums, device)
        means = {name: total / self._summed for name, total in sums.items()}
        self.history.append({"step": float(self.step)} | means | checked)
        self._sums, self._summed = {}, 0

    def save(self, work: Path, device: torch.device) -> None:
        """Write a checkpoint; of several processes, which have the same weights, the first does."""
        self._sums = parallel.mean(self._sums, device)
        if not parallel.first():
            return
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[f"weights.{name}"] = parameter.detach().contiguous()
            tensors[f"averaged.{name}"] = self.averaged[name].contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value.contiguous()
        progress = {
            "step": self.step,
            "history": self.history,
            "sums": self._sums,
            "summed": self._summed,
            "seconds": self.seconds,
        }
        write_tensors(work / CHECKPOINT, tensors, progress=progress)

    @torch.no_grad()
    def load(self, work: Path) -> None:
        """Take up the checkpoint, where there is one."""
        path = work / CHECKPOINT
        if not path.exists():
            return
        with reading(path, "a checkpoint") as file:
            progress = file.metadata("progress")
            for name, parameter in self.parameters.items():
                parameter.copy_(file[f"weights.{name}"])
                self.averaged[name].copy_(file[f"averaged.{name}"])
                state = self.optimizer.state[parameter]
                state["step"] = file[f"optimizer.step.{name}"].to(parameter.device)
                for key in ("exp_avg", "exp_avg_sq"):  # in the parameter's layout, as AdamW has it
                    state[key] = torch.empty_like(parameter).copy_(file[f"optimizer.{key}.{name}"])
            self.step, self.history = progress["step"], progress["history"]
            self._sums, self._summed = progress["sums"], progress["summed"]
            self._seconds = progress["seconds"]


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
