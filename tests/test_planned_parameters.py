"""A run uses the parameters that it was planned with, whatever becomes of params.yaml meanwhile."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Checkout, environment
from dry_run import planned

from pipeline.settings.load import PLANNED, load_settings, plan_with, read_settings

pytestmark = pytest.mark.campaign

LIMIT = 300  # seconds


def test_a_job_reads_what_its_run_was_planned_with(
    in_experiment: Callable[[dict[str, Any]], Path],
    fixture_params: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    folder = in_experiment(fixture_params)
    monkeypatch.setenv(PLANNED, "")  # so that it is put back
    plan_with(read_settings())
    fixture_params["seed"] += 1
    (folder / "params.yaml").write_text(yaml.safe_dump(fixture_params))
    assert load_settings().seed == fixture_params["seed"] - 1
    assert read_settings().seed == fixture_params["seed"]
    elsewhere = folder / "elsewhere.yaml"
    elsewhere.write_text((folder / "params.yaml").read_text())
    assert load_settings(elsewhere).seed == fixture_params["seed"]


def test_an_edit_during_a_run_concerns_the_next_one(checkout: Checkout, tmp_path: Path):
    """The training that is queued while params.yaml is edited uses the old steps, and says so."""
    made = checkout.copy(tmp_path / "repository")
    backbone = made.experiment / "models/backbones/tiny_a/record.json"
    steps = made.params["backbones"]["tiny_a"]["training"]["steps"]
    target = str(backbone.relative_to(made.experiment))
    command = ["snakemake", target, "--snakefile", str(made.root / "Snakefile")]
    run = subprocess.Popen(
        command, cwd=made.experiment, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    waiting = time.monotonic()
    while not (made.experiment / "logs/prepare_images.log").exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() - waiting < LIMIT
        time.sleep(0.05)
    made.edit(lambda params: params["backbones"]["tiny_a"]["training"].update(steps=steps - 5))
    printed = run.communicate(timeout=LIMIT)[0]

    # Its result stands, of the old parameters; by the exit status DVC does not record the new.
    assert run.returncode == 1
    assert "params.yaml was changed during this run" in printed
    record = json.loads(backbone.read_text())
    assert record["parameters"]["backbones.tiny_a"]["training"]["steps"] == steps
    again = planned(made.snakemake(target, "--dry-run").stdout)
    assert [job.rule for job in again] == ["make_backbone"]

    done = made.snakemake(target)
    assert "params.yaml was changed" not in done.stdout
    record = json.loads(backbone.read_text())
    assert record["parameters"]["backbones.tiny_a"]["training"]["steps"] == steps - 5
