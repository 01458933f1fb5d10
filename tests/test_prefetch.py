"""Tasks of a thread: when they run, and what becomes of them when something fails."""

import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import Checkout

from sacd.prefetch import prefetched
from sacd.shards import Shards

PATIENCE = 60  # seconds until a test gives up waiting
DRAW_AS_ON_A_GPU = """\
from torch.nn.attention import SDPBackend, sdpa_kernel
import stages.draw_samples, pipeline.methods

stages.draw_samples.IMAGES_PER_SHARD = 2  # so that there are several
pipeline.methods._behind = lambda decode: decode
with sdpa_kernel(SDPBackend.MATH):  # a CPU's threads would choose for each other
    stages.draw_samples.main()
"""


def waited(event: threading.Event) -> bool:
    return event.wait(PATIENCE)


def test_results_come_in_order_and_one_at_a_time():
    running = threading.Lock()

    def square(number: int) -> int:
        assert running.acquire(blocking=False)
        time.sleep(0.001)
        running.release()
        return number**2

    assert list(prefetched(partial(square, number) for number in range(20))) == [
        number**2 for number in range(20)
    ]
    assert list(prefetched(iter(()))) == []


def test_a_task_runs_while_the_next_one_is_prepared():
    ran = threading.Event()

    def tasks() -> Iterator[Callable[[], bool | None]]:
        yield lambda: ran.set()
        assert waited(ran)  # before this generator is left
        yield lambda: True

    assert list(prefetched(tasks())) == [None, True]


def test_and_while_the_result_before_it_is_used():
    ran = [threading.Event() for _ in range(3)]
    for number, _ in enumerate(prefetched(event.set for event in ran)):
        assert all(map(waited, ran[: number + 2]))


def test_an_error_of_a_task_stands_in_the_place_of_its_result():
    def fail() -> None:
        raise OSError("shard-00001 is gone")

    results = prefetched(iter([lambda: "first", fail, lambda: "third"]))
    assert next(results) == "first"
    with pytest.raises(OSError, match="shard-00001"):
        next(results)


@pytest.mark.parametrize("where", ["preparing", "using"])
def test_a_task_that_has_begun_is_ended_before_an_error_gets_out(where: str):
    begun, ended = threading.Event(), []

    def slow() -> None:
        begun.set()
        threading.Event().wait(0.2)
        ended.append("slow")

    def tasks() -> Iterator[Callable[[], None]]:
        yield lambda: None
        yield slow
        assert waited(begun)
        if where == "preparing":
            raise InterruptedError

    def use() -> None:
        results = prefetched(tasks())
        next(results)
        assert waited(begun)
        if where == "using":
            results.close()
            raise InterruptedError
        next(results)

    with pytest.raises(InterruptedError):
        use()
    assert ended == ["slow"]


def test_so_is_one_that_waits_when_the_one_before_it_fails():
    ended, given = [], threading.Event()

    def fail() -> None:
        assert waited(given)
        raise OSError

    def tasks() -> Iterator[Callable[[], None]]:
        yield fail
        yield lambda: ended.append("second")

    def use() -> None:
        results = prefetched(tasks())
        threading.Timer(0.2, given.set).start()  # when the second task has been given, too
        next(results)

    with pytest.raises(OSError):
        use()
    assert ended == ["second"]


def test_what_a_task_holds_is_let_go_when_it_has_run():
    held = torch.zeros(3)
    kept = weakref.ref(held)

    def tasks(held: torch.Tensor) -> Iterator[Callable[[], object]]:
        task = partial(torch.sum, held)
        del held
        yield task
        del task
        end = time.monotonic() + PATIENCE
        while kept() is not None and time.monotonic() < end:
            time.sleep(0.01)
        gone = kept() is None
        yield lambda: gone

    results = prefetched(tasks(held))
    del held
    assert list(results)[1]


def test_samples_are_the_same_when_they_are_decoded_by_the_thread(
    finished: Checkout, tmp_path: Path
):
    made = finished.copy(tmp_path / "repository")
    shutil.rmtree(made.experiment / "samples/tiny_a/spatial")
    command = [sys.executable, "-c", DRAW_AS_ON_A_GPU, "--backbone", "tiny_a"]
    made.run(*command, "--method", "spatial", PYTHONPATH=str(made.root))
    drawn, stored = (
        Shards(checkout.experiment / "samples/tiny_a/spatial") for checkout in (made, finished)
    )
    assert len(list(drawn.folder.glob("shard-*"))) == 4
    assert drawn.ids == stored.ids
    ours, theirs = (shards.read_all("images").int() for shards in (drawn, stored))
    assert (ours - theirs).abs().max() <= 1  # as in tests/test_resume.py
    for name in ("sample_index", "noise_seed"):
        assert torch.equal(drawn.read_all(name), stored.read_all(name))
