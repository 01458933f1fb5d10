"""Start stages in a process that has imported their libraries already.

    python workflow/fork_server.py COMMAND ...

runs a command, such as `snakemake`. Stages of one thread that it launches on this machine are forks
of this process. Importing PyTorch, diffusers and timm takes seconds, longer than many a stage of
the embedded world works, and is done once; our own code every stage imports for itself.

launch.sh asks for a stage by `fork_server.py --start stages.NAME ARGUMENTS ...`.
"""

import gc
import json
import multiprocessing
import os
import runpy
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
from importlib import import_module
from multiprocessing.connection import wait

SOCKET = "SACD_FORK_SERVER"  # the environment's variable with the socket's path
LIBRARIES = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.controlnets.controlnet",
    "diffusers.models.unets.unet_2d_condition",
    "lpips",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "pandas",
    "pydantic.fields",
    "sklearn.decomposition",
    "timm",
    "torch._dynamo",
    "torchmetrics.image",
    "torchvision.transforms.v2",
)
# What Snakemake sets for a rule of one thread; libraries read some of it when they are loaded.
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1"
    for library in ("GOTO", "MKL", "NUMEXPR", "OMP", "OPENBLAS", "VECLIB_MAXIMUM")
}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def serve(command: list[str]) -> int:
    """Run a command, forking what it asks for; its exit status."""
    environment = dict(os.environ)
    os.environ.update(ONE_THREAD)
    import torch

    if sys.platform != "linux" or torch.cuda.is_available():
        # Neither macOS's libraries nor CUDA outlive a fork.
        os.execvpe(command[0], command, environment)
    print("Importing libraries, once for all stages ...", file=sys.stderr)
    for library in LIBRARIES:
        import_module(library)
    gc.freeze()  # else a stage's collections would copy these objects' pages
    with tempfile.TemporaryDirectory(prefix="sacd-") as folder:
        address = f"{folder}/socket"
        with _Server(address, _Handler) as server:
            process = subprocess.Popen(command, env=environment | {SOCKET: address})
            signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command, too
            while process.poll() is None:
                server.handle_request()
    gc.unfreeze()
    return process.returncode


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    timeout = 0.1  # seconds from one look at the command to the next


class _Handler(socketserver.StreamRequestHandler):
    """Runs in a fork, one for each stage, which outlives it to tell how it ended."""

    def handle(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _, streams, *_ = socket.recv_fds(self.request, 1, 3)
        request = json.loads(self.rfile.readline())
        given = (request, streams, self.request.fileno())
        stage = multiprocessing.get_context("fork").Process(target=_run, args=given)
        stage.start()
        for stream in streams:
            os.close(stream)
        self.wfile.write(f"{stage.pid}\n".encode())
        if stage.sentinel not in wait([stage.sentinel, self.request]):
            stage.kill()  # as was who asked for it
            return
        stage.join()
        self.wfile.write(f"{stage.exitcode}\n".encode())


def _run(request: dict, streams: list[int], connection: int) -> None:
    """Become `python -m stages.NAME ARGUMENTS ...`, where and as it was asked for."""
    os.close(connection)  # so that it ends with the handler
    os.setpgrp()  # signals come from who asked, and not twice
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *arguments = request["arguments"]
    sys.argv = [name, *arguments]
    sys.path[:1] = [request["folder"], *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def start(arguments: list[str]) -> int:
    """Have a stage started, pass requests to stop on to it, and wait for its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        socket.send_fds(connection, [b"."], [0, 1, 2])
        stream = connection.makefile("rw")
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        stage = int(stream.readline())
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: os.kill(stage, number))
        status = int(stream.readline() or -signal.SIGKILL)  # nothing: the server was killed
    return status if status >= 0 else 128 - status  # for a signal, what a shell makes of it


if __name__ == "__main__":
    asked, *given = sys.argv[1:]
    sys.exit(start(given) if asked == "--start" else serve([asked, *given]))
