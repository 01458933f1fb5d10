"""Being asked to stop, as a scheduler does before a job's wall time: SIGTERM or SIGUSR1."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REQUESTS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """Work that ended early because it was asked to; what was finished is kept.

    Like KeyboardInterrupt no `Exception`, so that nobody takes it for a fault and goes on.
    """


def raise_when_asked() -> None:
    """From now on a request to stop raises `Stopped`, wherever the program is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    for request in REQUESTS:
        signal.signal(request, stop)


@contextmanager
def noting_requests() -> Iterator[Callable[[], bool]]:
    """In this block a request only makes the function that is given true: work ends a step first.

    Outside the main thread, where Python knows no signals, it stays false.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {request: signal.signal(request, lambda *_: asked.set()) for request in REQUESTS}
    try:
        yield asked.is_set
    finally:
        for request, handler in before.items():
            signal.signal(request, handler)
