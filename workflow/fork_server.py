"""Start stages in a process that has imported their libraries already.

    python workflow/fork_server.py COMMAND ...

runs a command, such as `snakemake`. Stages of one thread that it launches on this machine are forks
of this process. Importing PyTorch, diffusers and timm takes seconds, longer than many a stage of
the embedded world works, and is done once; our own code every stage imports for itself.

launch.sh asks for a stage by `fork_server.py --start stages.NAME ARGUMENTS ...`.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import wait

SOCKET = "SACD_FORK_SERVER"  # the environment's variable with the socket's path
LIBRARIES = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.controlnets.controlnet",
    "diffusers.schedulers.scheduling_ddpm",
    "lpips",
    "matplotlib.backends.backend_agg",
    "pydantic.fields",
    "sklearn.decomposition",
    "timm",
    "torchmetrics.image",
    "torchvision.transforms.v2",
)
# What Snakemake sets for a rule of one thread; libraries read some of it when they are loaded.
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("GOTO", "MKL", "NUMEXPR", "OMP", "OPENBLAS")
}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def serve(command: list[str]) -> int:
    """Run a command, forking what it asks for; its exit status, as a shell has it."""
    if shutil.which(command[0]) is None:
        sys.exit(f"error: {command[0]}: no such command.")
    environment = dict(os.environ)
    os.environ.update(ONE_THREAD)
    if not _can_fork():
        os.execvpe(command[0], command, environment)
    print("Importing libraries, once for all stages ...", file=sys.stderr)
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # else a stage's collections would copy these objects' pages
    # Before there is a command, which cannot inherit a function as it would SIG_IGN.
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: None)  # a terminal asks the command, too
    with tempfile.TemporaryDirectory(prefix="sacd-") as folder:
        address = f"{folder}/socket"
        with _Server(address, _Handler) as server:
            process = subprocess.Popen(command, env=environment | {SOCKET: address})
            while process.poll() is None:
                while asked:
                    process.send_signal(asked.pop())
                server.handle_request()
    gc.unfreeze()  # else libraries report as leaks, at the end, what is not collected
    return _as_of_a_shell(process.returncode)


def _can_fork() -> bool:
    """Neither macOS's libraries nor CUDA outlive a fork."""
    if sys.platform != "linux":
        return False
    import torch

    return not torch.cuda.is_available()


def _as_of_a_shell(status: int) -> int:
    """An exit status: negative, which is a signal's, becomes 128 and the signal."""
    return status if status >= 0 else 128 - status


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    timeout = 0.1  # seconds from one look at the command to the next
    max_children = sys.maxsize  # else it would wait for any, and so for the command
    block_on_close = False  # stages that outlive the command go on, as by themselves


class _Handler(socketserver.StreamRequestHandler):
    """Runs in a fork, one for each stage, which ends with it and whose end it tells."""

    def handle(self) -> None:
        self.server.socket.close()  # else who asks a dead server would wait for an answer
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        _, streams, *_ = socket.recv_fds(self.request, 1, 3)
        request = json.loads(self.rfile.readline())
        stage = multiprocessing.get_context("fork").Process(target=_run, args=(request, streams))
        stage.start()
        for stream in streams:
            os.close(stream)
        with suppress(BrokenPipeError):  # who asked was killed: nobody wants to know
            self.wfile.write(f"{stage.pid}\n".encode())
            if stage.sentinel in wait([stage.sentinel, self.request]):
                stage.join()
                self.wfile.write(f"{stage.exitcode}\n".encode())


def _run(request: dict, streams: list[int]) -> None:
    """Become `python -m stages.NAME ARGUMENTS ...`, where and as it was asked for."""
    ctypes.CDLL(None).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    os.setpgrp()  # signals come from who asked, and not twice
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # as the environment has it, and not as the server's had
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *arguments = request["arguments"]
    sys.argv = [name, *arguments]
    sys.path[:1] = [request["folder"], *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def start(arguments: list[str]) -> int:
    """Have a stage started, pass requests to stop on to it, and wait for its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ[SOCKET])
            socket.send_fds(connection, [b"."], [0, 1, 2])
            stream = connection.makefile("rw")
            asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
            stream.write(json.dumps(asked) + "\n")
            stream.flush()
            stage = int(stream.readline())
        except (OSError, ValueError):
            sys.exit("error: the fork server has ended; run the command again.")

        def forward(number: int, frame: object) -> None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(stage, number)

        for number in FORWARDED:
            signal.signal(number, forward)
        status = int(stream.readline() or -signal.SIGKILL)  # nothing: its handler was killed
    return _as_of_a_shell(status)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    option, *given = sys.argv[1:]
    try:
        sys.exit(start(given) if option == "--start" else serve([option, *given]))
    except KeyboardInterrupt:
        sys.exit(130)
