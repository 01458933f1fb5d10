"""Reading ahead changes when a batch is read, and nothing else."""

import threading

import pytest
import torch
from torch import Tensor

from sacd.optimization import step_generator
from sacd.prefetch import read_ahead

CPU = torch.device("cpu")


def rows(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(1000, (4,), generator=generator), torch.rand(2, generator=generator)


@pytest.mark.parametrize("steps", [[0, 1, 2], [5, 6], [3, 1, 1]])
def test_a_step_has_the_batch_and_the_generator_of_its_number(steps: list[int]):
    with read_ahead(rows, 7, CPU) as batch:
        for step in steps:
            tensors, generator = batch(step)
            expected = step_generator(7, step)
            assert all(map(torch.equal, tensors, rows(expected)))
            assert torch.equal(generator.get_state(), expected.get_state())


def test_the_next_batch_is_read_before_it_is_wanted():
    reads = threading.Semaphore(0)

    def read(generator: torch.Generator) -> tuple[Tensor, ...]:
        reads.release()
        return rows(generator)

    with read_ahead(read, 0, CPU) as batch:
        batch(0)
        assert all(reads.acquire(timeout=60) for _ in range(2))


def test_an_error_is_raised_at_the_step_that_wants_the_batch():
    first = step_generator(0, 0).get_state()

    def read(generator: torch.Generator) -> tuple[Tensor, ...]:
        if not torch.equal(generator.get_state(), first):
            raise OSError("shard-00001 is gone")
        return rows(generator)

    with read_ahead(read, 0, CPU) as batch:
        batch(0)
        with pytest.raises(OSError, match="shard-00001"):
            batch(1)
