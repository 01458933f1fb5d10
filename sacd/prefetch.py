"""Batches of a training, read while the step before is computed."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from sacd.optimization import step_generator

# Draws what a step takes from its generator, and reads it: tensors on the CPU.
Read = Callable[[torch.Generator], tuple[Tensor, ...]]
# step -> the tensors on the device, and the generator as reading left it.
Batch = Callable[[int], tuple[tuple[Tensor, ...], torch.Generator]]


@contextmanager
def read_ahead(read: Read, seed: int, device: torch.device) -> Iterator[Batch]:
    """Give the batches of steps, each read by a thread while the step before is computed.

    An error of `read` is raised at the step that wants the batch. To a GPU tensors are copied from
    pinned memory, so that the program goes on meanwhile.
    """
    ahead: dict[int, Future[tuple[tuple[Tensor, ...], torch.Generator]]] = {}

    def load(step: int) -> tuple[tuple[Tensor, ...], torch.Generator]:
        generator = step_generator(seed, step)
        return read(generator), generator

    def batch(step: int) -> tuple[tuple[Tensor, ...], torch.Generator]:
        wanted = ahead.pop(step, None) or pool.submit(load, step)
        ahead[step + 1] = pool.submit(load, step + 1)
        tensors, generator = wanted.result()
        return tuple(_sent(tensor, device) for tensor in tensors), generator

    with ThreadPoolExecutor(1) as pool:
        yield batch


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
