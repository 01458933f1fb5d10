"""A real SLURM on this machine (tests/slurm/cluster.sh): the whole pipeline, and what goes wrong.

For the latter each campaign has a copy of the finished experiment, in which training an adapter is
slowed down, and a `snakemake --profile slurm` of its own.
"""

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import EXPERIMENT, ROOT, Checkout, environment, every_rule_once
from recorded_run import NOTHING
from slurm_cluster import ADAPTER, CONFIGURATION, PATIENCE, STEPS, Campaign, control

from sacd.files import read_json

pytestmark = pytest.mark.campaign

# What the rules in `localrules` make; Snakemake runs them itself.
LOCAL = {
    "make_tables", "plot_concepts", "plot_disentanglement", "plot_edits", "plot_figures",
    "plot_layers", "plot_robustness",
    "write_report",
}  # fmt: skip


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
    campaigns: object, checkout: Checkout, tmp_path: Path, request: pytest.FixtureRequest
):
    """All rules by `snakemake --profile slurm` from the root, with one method to save time.

    With one thread a job, as the local run had: sums of floats depend on the number of threads. The
    campaigns below go on beside it: all of them wait for SLURM most of the time.
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
    assert NOTHING in made.snakemake("--dry-run").stdout
    assert (made.experiment / "results/report.html").stat().st_size > 10_000

    compared = request.getfixturevalue("compared")  # made by another worker meanwhile
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


def a_killed_process(campaign: Campaign) -> None:
    campaign.wait_for_training()
    for process in campaign.processes:
        os.kill(process, signal.SIGKILL)
    campaign.end()
    assert len(campaign.jobs) == 2
    assert "SLURM status is: 'FAILED'" in campaign.said


def a_job_over_its_time(campaign: Campaign) -> None:
    """The next one goes on at the step where the first was told to end."""
    campaign.wait_for_training()
    leave(campaign.jobs[0], minutes=1)
    campaign.end()
    assert len(campaign.jobs) == 2
    assert "SLURM status is: 'TIMEOUT'" in campaign.said
    assert 0 < steps_left(campaign.trained) < STEPS


def a_job_that_is_warned(campaign: Campaign) -> None:
    """Two minutes before its time is up, as the profile asks."""
    assert "--signal=TERM@120" in (campaign.made.root / "slurm/config.yaml").read_text()
    campaign.wait_for_training()
    leave(campaign.jobs[0], minutes=2)
    campaign.end()
    assert len(campaign.jobs) == 2
    assert "SLURM status is: 'FAILED'" in campaign.said
    assert 0 < steps_left(campaign.trained) < STEPS


def a_cancelled_job(campaign: Campaign) -> None:
    campaign.wait_for_training()
    slurm("scancel", campaign.jobs[0])
    campaign.end()
    assert len(campaign.jobs) == 2
    assert "SLURM status is: 'CANCELLED'" in campaign.said
    assert 0 < steps_left(campaign.trained) < STEPS


def a_job_put_off_for_an_urgent_one(campaign: Campaign) -> None:
    """SLURM itself puts it back into the queue, under its number."""
    campaign.wait_for_training()
    slurm("sbatch", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    campaign.wait(lambda: state(campaign.jobs[0]) == "PENDING")
    campaign.end()
    assert len(campaign.jobs) == 1
    assert 0 < steps_left(campaign.trained) < STEPS


def a_driver_that_was_interrupted(campaign: Campaign) -> None:
    """It takes its jobs with it, leaves no lock, and goes on when it is started again."""
    campaign.wait_for_training()
    campaign.driver.send_signal(signal.SIGINT)
    assert campaign.driver.wait(timeout=PATIENCE) != 0
    campaign.wait(lambda: state(campaign.jobs[0]) in ("CANCELLED", ""))
    campaign.wait(lambda: not campaign.processes)
    campaign.start()
    campaign.end()
    assert len(campaign.jobs) == 2
    assert 0 < steps_left(campaign.trained) < STEPS


def a_node_that_went_down(campaign: Campaign) -> None:
    """With all that ran on it; when it is back, SLURM starts the job once more."""
    campaign.wait_for_training()
    control("down", "n4")
    campaign.wait(lambda: state(campaign.jobs[0]) == "PENDING")
    assert not campaign.processes
    control("up", "n4")
    campaign.end()
    assert len(campaign.jobs) == 1


def on_two_nodes(campaign: Campaign) -> None:
    """With two processes on each, and a GPU, as the profile's kind `gpus` asks for.

    (The GPU is none: the nodes only say so.)
    """
    campaign.end()


CAMPAIGNS: dict[Callable[[Campaign], None], tuple[float, dict[str, int | str]]] = {
    # With the pace, slow enough for the fault to come in time under load. The longest begin first.
    a_job_over_its_time: (9.0, {}),
    a_job_that_is_warned: (9.0, {"slurm_extra": "'--signal=TERM@120'"}),
    a_killed_process: (1.0, {}),
    a_cancelled_job: (3.0, {}),
    a_job_put_off_for_an_urgent_one: (3.0, {"slurm_partition": "spare"}),
    a_driver_that_was_interrupted: (3.0, {}),
    a_node_that_went_down: (1.0, {"slurm_partition": "fragile"}),
    on_two_nodes: (
        0.0,
        {
            "slurm_partition": "gpu",
            "gres": "gpu:1",
            "nodes": 2,
            "tasks": 2,
            "tasks_per_gpu": 0,
            "mpi": "srun",
            "processes": 2,
        },
    ),
}
AT_ONCE = 4  # more, and two cores are so slow that no job ends within its minutes
FAULTS = [campaign for campaign in CAMPAIGNS if campaign is not on_two_nodes]


@pytest.fixture(scope="module")
def campaigns(
    cluster: None, finished: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Callable, Future[Campaign]]]:
    """All of them, under way."""
    begun: list[Campaign] = []

    def suffer(fault: Callable[[Campaign], None]) -> Campaign:
        pace, resources = CAMPAIGNS[fault]
        campaign = Campaign(finished, tmp_path_factory.mktemp("fault"), pace, **resources)
        begun.append(campaign)
        fault(campaign)
        return campaign

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {fault: pool.submit(suffer, fault) for fault in CAMPAIGNS}
        for campaign in begun:
            if campaign.driver.poll() is None:
                os.killpg(campaign.driver.pid, signal.SIGKILL)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_training_ends_as_if_nothing_had_been(
    campaigns: dict[Callable, Future[Campaign]], finished: Checkout, fault: Callable
):
    campaign = campaigns[fault].result()
    for name in ("adapter.safetensors", "config.json", "training.json"):
        ours, twin = (made.experiment / ADAPTER / name for made in (campaign.made, finished))
        assert ours.read_bytes() == twin.read_bytes(), name
    assert not list((campaign.made.experiment / ".snakemake/locks").glob("*"))
    assert not list(campaign.made.experiment.glob(".work/train_adapter-*"))


def test_so_do_the_tables(campaigns: dict[Callable, Future[Campaign]], finished: Checkout):
    """All that comes after it, made of what a node left that went down."""
    made = campaigns[a_node_that_went_down].result().made
    made.snakemake()
    ours, theirs = (
        pd.read_csv(checkout.experiment / "results/tables/main.csv")
        for checkout in (made, finished)
    )
    costs = [name for name in ours if name.startswith(("seconds", "training_seconds", "peak"))]
    assert len(costs) == 3
    pd.testing.assert_frame_equal(ours.drop(columns=costs), theirs.drop(columns=costs))


def test_on_two_nodes_it_takes_the_same_steps(
    campaigns: dict[Callable, Future[Campaign]], finished: Checkout
):
    """The losses of one process, as in test_parallel.py."""
    campaign = campaigns[on_two_nodes].result()
    ours, theirs = (made.experiment / ADAPTER for made in (campaign.made, finished))
    assert read_json(ours / "record.json")["processes"] == 4
    histories = [read_json(folder / "training.json")["history"] for folder in (ours, theirs)]
    for entry, twin in zip(*histories, strict=True):
        assert entry == pytest.approx(twin, abs=1e-4)
    assert campaign.trained.count(f" 0/{STEPS} ") == 1  # one of the processes tells how far it is


def steps_left(log: str) -> int:
    """How many steps the training that wrote this log had to take."""
    return int(re.findall(r"(\d+)/(\d+) ", log)[-1][1])


def leave(job: str, minutes: int) -> None:
    """Let a running job's time be up within so many minutes; SLURM counts whole ones.

    The next job has the profile's own limit, so that it ends on a machine of any speed.
    """
    ran, _ = slurm("squeue", "-h", "-o", "%M", "-j", job).split(":")  # minutes and seconds
    slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={int(ran) + minutes}")


def slurm(*command: str) -> str:
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True
    ).stdout


def state(job: str) -> str:
    """SLURM's word for how a job is; nothing if it has forgotten it."""
    done = subprocess.run(
        ["squeue", "--states", "all", "-h", "-o", "%T", "-j", job],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()
