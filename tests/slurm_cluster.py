"""The one-machine SLURM cluster of tests/slurm/cluster.sh, and campaigns on it."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from conftest import EXPERIMENT, ROOT, Checkout, environment

CONFIGURATION = Path("/etc/slurm/slurm.conf")
SCRIPT = ROOT / "tests/slurm/cluster.sh"
ADAPTER = "adapters/tiny_a/spatial"
STEPS = 30
PATIENCE = 1200  # seconds: more than the slowest machine needs for any of it
LOSS = "def loss(step: Step) -> tuple[Tensor, dict[str, float]]:\n"
SLOWLY = """\
        import time
        if globals().setdefault("BEGUN_AT", step.number) == 0:
            time.sleep({pace})
"""
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")


def control(*arguments: str) -> str:
    """Run the script; what it prints."""
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=environment(), text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


class Campaign:
    """A training by `snakemake --profile slurm`, at `pace` seconds a step where it begins anew.

    Where it goes on from a checkpoint it takes steps at full speed.
    """

    def __init__(self, finished: Checkout, folder: Path, pace: float, **resources: int | str):
        self.made = finished.copy(folder / "repository")
        source = self.made.root / "sacd/training/adapter.py"
        code = source.read_text()
        assert code.count(LOSS) == 1
        slow = f"{LOSS}{SLOWLY.format(pace=pace)}"
        source.write_text(code.replace(LOSS, slow))
        versions = self.made.root / "workflow/versions.json"  # so that the adapter is made again
        known = json.loads(versions.read_text())
        known["stages"]["train_adapter"]["version"] += 1
        versions.write_text(json.dumps(known))
        given = {"mem_mb": 500, "slurm_extra": "''", **resources}
        self._command = [
            "env", "--default-signal=INT",  # which a shell's background jobs are told to ignore
            "snakemake", f"{ADAPTER}/record.json", "--profile", "slurm",
            "--directory", str(EXPERIMENT),
            "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10",
            "--set-threads", "train_adapter=1",
            "--set-resources", *(f"train_adapter:{key}={value}" for key, value in given.items()),
        ]  # fmt: skip
        self._listing = folder / "driver.log"
        self.start()

    def start(self) -> None:
        with self._listing.open("a") as log:
            self.driver = subprocess.Popen(
                self._command, cwd=self.made.root, env=environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What the driver printed."""
        return self._listing.read_text()

    @property
    def jobs(self) -> list[str]:
        """Numbers of the jobs it submitted."""
        return re.findall(r"submitted with SLURM jobid (\d+)", self.said)

    @property
    def trained(self) -> str:
        """The log of the training that ran last."""
        path = self.made.experiment / "logs/train_adapter/tiny_a-spatial.log"
        return path.read_text() if path.exists() else ""

    @property
    def processes(self) -> list[int]:
        """Of the training, on the node."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                here = os.readlink(place / "cwd") == str(self.made.experiment)
            except OSError:  # it has ended meanwhile
                continue
            if b"stages.train_adapter" in command and b"python" in command.split(b"\0")[0] and here:
                found.append(int(place.name))
        return found

    def wait_for_training(self, jobs: int = 1) -> None:
        """Until the job of this number takes steps."""
        self.wait(
            lambda: len(self.jobs) == jobs and self.processes and f"0/{STEPS}" in self.trained
        )
        time.sleep(3)

    def wait(self, true: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"it did not happen:\n{self.said}\n{self.trained}"
            time.sleep(0.5)

    def end(self) -> None:
        """Wait for the driver, which must succeed."""
        assert self.driver.wait(timeout=PATIENCE) == 0, f"{self.said}\n{self.trained}"
