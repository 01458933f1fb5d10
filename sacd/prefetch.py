"""What a thread does beside the networks' steps: reads their next batch, finishes their last."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetched(tasks: Iterable[Callable[[], Result]]) -> Generator[Result, None, None]:
    """The results of tasks in their order; one thread runs them, a task at a time.

    It is one ahead: runs a task while the next one is prepared, and while the result of the one
    before is used. An error of a task is raised in the place of its result. When preparing a task
    fails, or the generator is closed, what the thread was given is run to its end first.
    """
    with ThreadPoolExecutor(1) as thread:
        ahead: Future[Result] | None = None
        for task in tasks:
            last, ahead = ahead, thread.submit(task)
            del task  # with the arrays it may hold, which would stay while the next one is prepared
            if last is not None:
                yield last.result()
        if ahead is not None:
            yield ahead.result()
