"""The whole pipeline through a real SLURM of two nodes on this machine (tests/slurm/cluster.sh)."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import EXPERIMENT, ROOT, Checkout, environment, every_rule_once

from sacd.files import read_json

CONFIGURATION = Path("/etc/slurm/slurm.conf")
SCRIPT = ROOT / "tests/slurm/cluster.sh"
# What the rules in `localrules` make; Snakemake runs them itself.
LOCAL = {
    "make_tables", "plot_concepts", "plot_disentanglement", "plot_edits", "plot_figures",
    "plot_layers", "plot_robustness",
    "write_report",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The one-machine cluster, up; one that was up before stays so."""
    if os.geteuid() != 0:
        pytest.skip("starting SLURM needs root")
    for program in ("slurmctld", "slurmd", "sbatch", "squeue", "munged"):
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is missing: apt-get install slurmctld slurmd slurm-client munge"
            )
    if CONFIGURATION.exists() and "cluster.sh" not in CONFIGURATION.read_text().split("\n")[0]:
        pytest.skip(f"{CONFIGURATION} is another cluster's")
    started = control("start")
    yield
    if "already up" not in started:
        control("stop")


def control(verb: str) -> str:
    done = subprocess.run(
        ["bash", str(SCRIPT), verb],
        env=environment(), text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def profile() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())


def rules() -> set[str]:
    """The rules that make something."""
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    return set(re.findall(r"^rule (\w+):", text, re.MULTILINE))


def test_the_profile_says_what_each_submitted_job_asks_for():
    submitted = rules() - LOCAL
    assert set(profile()["set-resources"]) == submitted
    assert set(profile()["set-threads"]) == submitted


def test_everything_is_made_by_jobs_and_as_it_is_made_here(
    cluster: None, checkout: Checkout, compared: Checkout, tmp_path: Path
):
    """All rules by `snakemake --profile slurm` from the root, with one method to save time.

    With one thread a job, as the local run had: sums of floats depend on the number of threads.
    """
    made = checkout.copy(tmp_path / "repository")

    made.edit(every_rule_once)
    command = ["snakemake", "--profile", "slurm", "--directory", str(EXPERIMENT)]
    quick = ["--slurm-init-seconds-before-status-checks", "2", "--jobs", "2", "--retries", "0"]
    single = ["--set-threads", *(f"{rule}=1" for rule in sorted(rules() - LOCAL))]
    done = subprocess.run(
        [*command, *quick, *single],
        cwd=made.root, env=environment(), text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout

    # Every job of a rule that is not local was submitted, and SLURM ran it.
    jobs = dict(
        re.findall(
            r"Job \d+ has been submitted with SLURM jobid (\d+) \(log: \S+/slurm_logs/rule_(\w+)/",
            done.stdout,
        )
    )
    networks = len(made.params["compare"]["networks"])
    assert Counter(jobs.values()) == {
        **dict.fromkeys(rules() - LOCAL, 1),
        **dict.fromkeys(("make_backbone", "cache_features"), networks),
    }
    ended = exit_statuses()
    assert {ended.get(number) for number in jobs} == {"0"}
    assert "Nothing to be done" in made.snakemake("--dry-run").stdout
    assert (made.experiment / "results/report.html").stat().st_size > 10_000

    made_of = [*made.experiment.rglob("*.safetensors"), made.experiment / "data/manifest.parquet"]
    assert len(made_of) > 20
    for path in made_of:
        twin = compared.experiment / path.relative_to(made.experiment)
        assert path.read_bytes() == twin.read_bytes(), twin
    for name in ("spatial", "references"):
        ours, here = (
            pd.read_parquet(folder.experiment / f"scores/tiny_a/{name}.parquet")
            for folder in (made, compared)
        )
        pd.testing.assert_frame_equal(ours, here)
    device = read_json(made.experiment / "adapters/tiny_a/spatial/record.json")["device"]
    assert "1 threads" in device


def exit_statuses() -> dict[str, str]:
    """Exit status of every job that ended, from the controller's log (squeue soon forgets them)."""
    found = re.search(r"^SlurmctldLogFile=(.+)$", CONFIGURATION.read_text(), re.MULTILINE)
    log = Path(found.group(1)).read_text()
    return dict(re.findall(r"_job_complete: JobId=(\d+) WEXITSTATUS (\d+)", log))
