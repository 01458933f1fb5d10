"""Work that was cut off goes on where it stopped, and nothing shows in the result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import Checkout, environment
from recorded_run import NOTHING
from safetensors import safe_open

from sacd.optimization import CHECKPOINT
from sacd.shards import Shards

pytestmark = pytest.mark.campaign

# What runs in place of `python -m stages.NAME`: the same, but it sends itself a real signal, mostly
# SIGKILL, at a place that does not depend on the machine's speed.
TRAIN_UNTIL_STEP_28 = """\
import functools, itertools, os, signal, sys
import torch
import sacd.optimization

# A checkpoint at every step, instead of every other minute.
sacd.optimization.train = functools.partial(sacd.optimization.train, checkpoint_seconds=0.0)
step, count, number = torch.optim.AdamW.step, itertools.count(1), int(sys.argv.pop())

def killing(self, *arguments, **more):
    if next(count) == 28:
        os.kill(os.getpid(), number)
    return step(self, *arguments, **more)

torch.optim.AdamW.step = killing
sys.argv = ["train_adapter", "--backbone", "tiny_a", "--adapter", "spatial"]
import pipeline.program, stages.train_adapter
pipeline.program.run(stages.train_adapter.main)
"""
# A stage that is killed when a function of `owner` is called for the nth time: never, where n is 0.
KILLED = """\
import importlib, itertools, os, pkgutil, signal, sys
import stages.draw_samples

stages.draw_samples.IMAGES_PER_SHARD = 2  # so that there are several
owner, name, last, stage = sys.argv[1:5]
owner, last, count = pkgutil.resolve_name(owner), int(last), itertools.count(1)
program, function = importlib.import_module(f"stages.{stage}"), getattr(owner, name)

def killing(*arguments, **more):
    if next(count) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **more)

setattr(owner, name, killing)
sys.argv = sys.argv[4:]
program.main()
"""
EXTRACTING = ("stages.cache_features", "extract")
SAMPLING = ("sacd.sampling.inverter:Inverter", "draw_latents")
TRYING = ("stages.sweep_method", "_try")
DRAWING = ("pipeline.methods", "draw_all")


@pytest.fixture
def mine(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run to cut off and take up again."""
    return finished.copy(tmp_path / "repository")


def python(checkout: Checkout, program: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *arguments]
    return checkout.run(*command, check=False, PYTHONPATH=str(checkout.root))


def killed_at(
    checkout: Checkout, call: int, function: tuple[str, str], *command: str
) -> subprocess.CompletedProcess:
    """Run a stage that is killed at this call of a function."""
    return python(checkout, KILLED, *function, str(call), *command)


@pytest.mark.parametrize(
    ("number", "status", "kept"),
    [(signal.SIGKILL, -signal.SIGKILL, 27), (signal.SIGUSR1, 143, 28)],  # SIGTERM: with SLURM
)
def test_a_training_that_was_ended_goes_on_to_the_same_weights(
    finished: Checkout, mine: Checkout, number: signal.Signals, status: int, kept: int
):
    """Killed, it has lost a step; asked to end, none."""
    folder = mine.experiment / "adapters/tiny_a/spatial"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    ended = python(mine, TRAIN_UNTIL_STEP_28, str(int(number)))
    assert ended.returncode == status, ended.stdout
    said = "stopped after 28 of 30 steps; run it again: what was finished is kept." in ended.stdout
    assert said == (status == 143), ended.stdout
    assert not folder.exists()  # nothing that could pass for a result
    (checkpoint,) = (mine.experiment / ".work").glob(f"train_adapter-*/{CHECKPOINT}")
    with safe_open(checkpoint, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    assert progress["step"] == kept
    assert [entry["step"] for entry in progress["history"]] == [25.0]

    log = mine.snakemake("adapters/tiny_a/spatial/record.json").stdout
    assert re.search(rf"adapter tiny_a spatial: 100%.* {30 - kept}/{30 - kept} ", log), (
        log
    )  # of 30 steps
    twin = finished.experiment / "adapters/tiny_a/spatial"
    for name in ("adapter.safetensors", "config.json", "training.json"):
        assert (folder / name).read_bytes() == (twin / name).read_bytes(), name
    assert not list((mine.experiment / ".work").glob("train_adapter-*"))


def test_killed_sampling_keeps_finished_shards(finished: Checkout, mine: Checkout):
    folder = mine.experiment / "samples/tiny_a/spatial"
    stored = Shards(finished.experiment / "samples/tiny_a/spatial")
    assert len(stored) == 8
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    command = (SAMPLING, "draw_samples", "--backbone", "tiny_a", "--method", "spatial")
    killed = killed_at(mine, 4, *command)  # the third shard may be on its way to the disk
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert not folder.exists()
    (work,) = (mine.experiment / ".work").glob("draw_samples-*")
    names = sorted(path.name for path in work.glob("shard-*"))
    assert names[:2] == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert not (work / "shard-00003.safetensors").exists()
    before = {name: identity(work / name) for name in names}

    done = killed_at(mine, 0, *command)
    assert done.returncode == 0, done.stdout
    assert {name: identity(folder / name) for name in names} == before
    assert sorted(path.name for path in folder.glob("shard-*")) == [
        f"shard-{number:05d}.safetensors" for number in range(4)
    ]
    drawn = Shards(folder)
    assert drawn.ids == stored.ids
    assert drawn.info == stored.info
    # Four shards by two runs hold what one shard by one run holds; how sums of floats are rounded
    # may depend on the size of a batch, so on some processors a few values differ by one.
    ours, theirs = (shards.read_all("images").int() for shards in (drawn, stored))
    assert (ours - theirs).abs().max() <= 1
    assert (drawn.read_all("sample_index") == stored.read_all("sample_index")).all()
    assert not list((mine.experiment / ".work").glob("draw_samples-*"))


def test_a_stage_of_several_splits_keeps_finished_ones(finished: Checkout, mine: Checkout):
    folder = mine.experiment / "features/tiny_a"
    shutil.rmtree(folder)
    command = (EXTRACTING, "cache_features", "--backbone", "tiny_a")
    killed = killed_at(mine, 3, *command)  # train and val are a shard each
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert not folder.exists()
    shards = sorted((mine.experiment / ".work").glob("cache_features-*/shard-*"))
    assert len(shards) == 2
    before = {identity(path) for path in shards}

    done = killed_at(mine, 2, *command)  # one is left to be made
    assert done.returncode == 0, done.stdout
    assert before < {identity(path) for path in folder.rglob("shard-*")}
    for path in (finished.experiment / "features/tiny_a").rglob("*.safetensors"):
        twin = folder / path.relative_to(finished.experiment / "features/tiny_a")
        assert path.read_bytes() == twin.read_bytes(), path


def test_a_killed_sweep_keeps_what_it_tried(mine: Checkout):
    command = (TRYING, "sweep_method", "--sweep", "guidance")
    killed = killed_at(mine, 3, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert not list(mine.experiment.glob("results/sweeps/*"))
    kept = [json.loads(path.read_text()) for path in mine.experiment.glob(".work/*/row.json")]
    assert sorted((row["guidance"], row["steps"]) for row in kept) == [(1.0, 2), (1.0, 3)]

    done = killed_at(mine, 0, *command)
    assert done.returncode == 0, done.stdout
    assert "{'guidance': 2.0" in done.stdout and "{'guidance': 1.0" not in done.stdout
    table = pd.read_csv(mine.experiment / "results/sweeps/guidance.csv")
    tried = table[table.method == "spatial"]
    assert list(zip(tried.guidance, tried.steps, strict=True)) == [
        (guidance, steps) for guidance in (1.0, 2.0) for steps in (2, 3)
    ]
    assert table.cos_median.head(2).tolist() == pytest.approx(
        [row["cos_median"] for row in sorted(kept, key=lambda row: row["steps"])], rel=1e-4
    )
    assert not list(mine.experiment.glob(".work/sweep_method-*"))


@pytest.mark.parametrize(
    ("stage", "folder", "arguments"),
    [
        ("draw_edits", "edits/tiny_a/mixture", ["--edit", "mixture"]),
        ("measure_robustness", "robustness/tiny_a/blur", ["--disturbance", "blur"]),
    ],
)
def test_what_was_drawn_to_be_scored_is_not_drawn_again(
    compared: Checkout, tmp_path: Path, stage: str, folder: str, arguments: list[str]
):
    made = compared.copy(tmp_path / "repository")
    shutil.rmtree(made.experiment / folder)
    command = (DRAWING, stage, "--backbone", "tiny_a", *arguments)
    killed = killed_at(made, 3, *command)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert not (made.experiment / folder).exists()
    kept = list(made.experiment.glob(f".work/{stage}-*/*.safetensors"))
    assert len(kept) == 2
    before = {identity(path) for path in kept}

    killed = killed_at(made, 1, *command)  # the next to be drawn is another one
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert {identity(path) for path in kept} == before
    done = killed_at(made, 0, *command)
    assert done.returncode == 0, done.stdout
    assert not list(made.experiment.glob(f".work/{stage}-*"))
    ours, theirs = (
        pd.read_parquet(checkout.experiment / folder / "scores.parquet")
        for checkout in (made, compared)
    )
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-3)


def identity(path: Path) -> tuple[int, int]:
    """What would differ had the file been written again."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def test_one_run_in_a_folder_at_a_time_and_a_killed_one_is_taken_up(mine: Checkout):
    folder = ["--directory", str(mine.experiment), "--snakefile", str(mine.root / "Snakefile")]
    first = subprocess.Popen(
        ["snakemake", "prepare_images", "--forcerun", "prepare_images", *folder],
        cwd=mine.root, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        manifest = mine.experiment / "data/manifest.parquet"
        wait_until(lambda: not manifest.exists() and locks(mine))  # its job has begun
        os.killpg(first.pid, signal.SIGSTOP)  # and lasts as long as we need it
        second = mine.snakemake("prepare_images", check=False)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert second.returncode == 1
    assert "LockException" in second.stdout
    assert "Directory cannot be locked" in second.stdout
    assert "no other Snakemake process is trying to create the same files" in second.stdout
    assert str(mine.experiment) in second.stdout

    # The killed one left its lock: the message says so and names the way out, which works.
    again = mine.snakemake("prepare_images", check=False)
    assert again.returncode == 1
    assert "likely caused by a kill signal" in again.stdout
    assert "It can be removed with the --unlock argument" in again.stdout
    mine.snakemake("--unlock")
    mine.snakemake("prepare_images")
    assert manifest.exists()
    assert not locks(mine)
    assert NOTHING in mine.snakemake("prepare_images", "--dry-run").stdout


def locks(checkout: Checkout) -> list[Path]:
    return list((checkout.experiment / ".snakemake/locks").glob("*"))


def wait_until(true) -> None:
    end = time.monotonic() + 600
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
