"""The frame that every program runs in: its errors, its progress, its device."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from sacd import parallel
from sacd.errors import SacdError
from sacd.stopping import Stopped, raise_when_asked


def run(main: Callable[[], None]) -> None:
    """Run a stage; a `SacdError` becomes one message on stderr and exit status 1.

    Asked to stop (SIGTERM, or SIGUSR1 ahead of a job's wall time), it ends in order, and the same
    command goes on from there.
    """
    raise_when_asked()
    try:
        main()
    except SacdError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a disk that is full, a folder that may not be written or is gone
        if error.filename is None and error.strerror is None:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run it again: what was finished is kept.", file=sys.stderr)
        sys.exit(130)
    except Stopped as stopped:
        print(f"{stopped}; run it again: what was finished is kept.", file=sys.stderr)
        sys.exit(143)


def progress(label: str) -> Callable[[Iterator[int], int], Iterator[int]]:
    """A tqdm bar as the progress callback of the library's loops, for the first process."""
    from tqdm import tqdm

    if not parallel.first():
        return lambda items, total: items

    def bar(items: Iterator[int], total: int) -> Iterator[int]:
        if sys.stderr.isatty():
            return iter(tqdm(items, total=total, desc=label))
        return iter(tqdm(items, total=total, desc=label, mininterval=10.0, file=_Lines()))

    return bar


class _Lines(io.TextIOBase):
    """Standard error for a log: a line for each redraw of a bar instead of a carriage return."""

    def write(self, text: str) -> int:
        if stripped := text.strip():
            sys.stderr.write(stripped + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


@cache
def device() -> Any:
    """The GPU if there is one, else the CPU.

    Named by its number, for a thread that was started since takes "cuda" for the first.
    """
    import torch

    parallel.join()  # which gives each of several processes a GPU of its own
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def compiling() -> bool:
    """Whether the environment asks for compiled networks, as a machine's matter, no science."""
    return os.environ.get("SACD_COMPILE", "") not in ("", "0")
