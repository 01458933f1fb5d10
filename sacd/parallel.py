"""Processes that share one piece of work, as torchrun starts them; accelerate makes them a group.

Each runs the same program. Whatever is drawn at random is drawn by all alike, for the whole, and
each takes its share, so that results don't depend on how many they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sacd.errors import SacdError

if TYPE_CHECKING:  # torch takes seconds to import, and most processes are alone
    import torch
    from torch import Tensor, nn

Rows = TypeVar("Rows", "Tensor", range)

# One process writes and sums up what all have made, which takes longer than the ten minutes that
# NCCL lets the others wait.
PATIENCE = timedelta(days=1)
BUCKET_BYTES = 25 * 2**20  # of gradients that travel together; DistributedDataParallel's


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def first() -> bool:
    """Whether this is the one that writes what all have made."""
    return number() == 0


@cache
def join() -> None:
    """Make the processes a group, each with a GPU of its own where there are GPUs."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(timeout=PATIENCE)


def share(rows: Rows) -> Rows:
    """This process's part of what was drawn for all: every count-th row from its number."""
    return rows[number() :: count()]


def require_even_shares(batch: int) -> None:
    """Raise `SacdError` where the shares of a batch would not be of one size."""
    if batch % count():
        raise SacdError(
            f"A batch of {batch} cannot be shared evenly by {count()} processes: "
            f"take a number of them that divides it."
        )


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        import torch.distributed

        join()
        torch.distributed.barrier()


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is true in any process."""
    if count() == 1:
        return flag
    import torch.distributed

    flags = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(flags)
    return bool(flags)


def mean(numbers: dict[str, float], device: torch.device) -> dict[str, float]:
    """Means over all processes of numbers that each has under the same names."""
    if count() == 1:
        return numbers
    import torch.distributed

    values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(values)
    return dict(zip(numbers, (values / count()).tolist(), strict=True))


@contextmanager
def averaging_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[Callable[[], None]]:
    """In this block gradients are averaged over all processes.

    By buckets, each as soon as the backward pass has filled it, while the pass goes on (Li et al.
    2020, PyTorch Distributed): one by one, the hundreds of small gradients of a U-Net took a third
    of a step. The function that is given waits for the last of them.
    """
    if count() == 1:
        yield lambda: None
        return
    buckets = _Buckets()
    hooks = [p.register_post_accumulate_grad_hook(buckets.add) for p in parameters]
    try:
        yield buckets.finish
    finally:
        for hook in hooks:
            hook.remove()


class _Buckets:
    """Gradients on their way to the other processes and back."""

    def __init__(self) -> None:
        self._filling: list[Tensor] = []
        self._bytes = 0
        self._running: list[tuple[list[Tensor], Tensor, Any]] = []

    def add(self, parameter: Tensor) -> None:
        """Put a parameter's gradient into the bucket; a full one is sent off."""
        assert parameter.grad is not None
        self._filling.append(parameter.grad)
        self._bytes += parameter.grad.nbytes
        if self._bytes >= BUCKET_BYTES:
            self._send()

    def finish(self) -> None:
        """Wait for all buckets, and give each gradient its average."""
        self._send()
        for gradients, averages, reduction in self._running:
            reduction.wait()
            parts = averages.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        self._running = []

    def _send(self) -> None:
        import torch
        import torch.distributed

        if not self._filling:
            return
        averages = torch.cat([gradient.flatten() for gradient in self._filling]) / count()
        reduction = torch.distributed.all_reduce(averages, async_op=True)
        self._running.append((self._filling, averages, reduction))
        self._filling, self._bytes = [], 0
