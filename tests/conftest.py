"""Shared fixtures: a repository of one's own and its experiment run once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from filelock import FileLock

if TYPE_CHECKING:  # not imported before the number of its threads is set
    from torch import Tensor

os.environ["OMP_NUM_THREADS"] = "1"  # torch is not imported yet; workers share two cores

ROOT = Path(__file__).parent.parent
EXPERIMENT = Path("experiments/fixture")
LEFT_OUT = object()  # of `complaint`

pytest_plugins = ["tiny_networks"]


def environment(**more: str) -> dict[str, str]:
    """What the programs run with: ours first in PATH, nobody's settings, one thread, no GPU."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            ("SNAKEMAKE_", "DVC_", "GIT_", "SLURM_", "SACD_COMPILE", "SACD_PARAMETERS", "PYTEST_")
        )
    }
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",  # as Snakemake gives a rule of one thread
        "CUDA_VISIBLE_DEVICES": "",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
        **more,
    }


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository and the experiment in it."""

    root: Path

    @property
    def experiment(self) -> Path:
        return self.root / EXPERIMENT

    @property
    def params(self) -> dict[str, Any]:
        text = (self.experiment / "params.yaml").read_text()
        return json.loads(json.dumps(yaml.safe_load(text)))  # YAML's anchors become copies

    def run(self, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess:
        """Run a program in the experiment's folder; `more` are environment variables."""
        # DVC's notes on files that it has seen belong beside this copy, not to the machine.
        more = {"DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-notes"), **more}
        done = subprocess.run(
            command, cwd=self.experiment, env=environment(**more), text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
        return done

    def snakemake(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess:
        """Run Snakemake as people do: at the root, on the experiment's folder."""
        folder = ["--directory", str(self.experiment), "--snakefile", str(self.root / "Snakefile")]
        return self.run("snakemake", *arguments, *folder, **more)

    def stage(self, name: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess:
        """Run a stage's program by itself, or another by its dotted name."""
        command = [sys.executable, "-m", program(name), *arguments]
        return self.run(*command, PYTHONPATH=str(self.root), **more)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change params.yaml."""
        params = self.params
        change(params)
        self.write(params)

    def write(self, params: dict[str, Any]) -> None:
        """Write params.yaml, and the dvc.yaml that belongs to it."""
        self.experiment.mkdir(parents=True, exist_ok=True)
        (self.experiment / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        self.run(sys.executable, str(self.root / "workflow/dvc_stages.py"), ".")

    def copy(self, where: Path) -> "Checkout":
        """A copy with all that was made and what Snakemake knows of it; times stay."""
        subprocess.run(["cp", "-a", str(self.root), str(where)], check=True)
        return Checkout(where)


def program(name: str) -> str:
    """The module of a stage; a dotted name is another program's."""
    return name if "." in name else f"stages.{name}"


def one_message(status: int, stderr: str) -> str:
    """What a mistake must end in: exit status 1 and a last line `error: ...`, no traceback."""
    assert status == 1, stderr
    assert "Traceback" not in stderr
    head, mark, message = stderr.rpartition("error: ")
    assert mark, stderr
    assert head == "" or head.endswith("\n")  # at most progress bars before it
    return message


def normal(*shape: int, seed: int = 0) -> "Tensor":
    """Standard normal numbers of a seed."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def commit(checkout: Checkout) -> None:
    """Commit everything to git."""
    checkout.run("git", "add", "--all", str(checkout.root))
    checkout.run("git", "commit", "--quiet", "--message", "Results")


# Files that take long come first, so that no worker of pytest-xdist is left with one at the end.
SLOW = (
    "test_slurm.py",
    "test_dvc.py",
    "test_baselines.py",
    "test_pull.py",
    "test_resume.py",
)
# What runs every method, or stores a run, takes minutes to set up.
CAMPAIGNS = {"compared", "recorded", "cluster"}


# Before pytest leaves out what `-m` does not ask for.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if CAMPAIGNS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.campaign)
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkout]:
    """Call with a name and how to make a repository: made by the first worker that needs it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Checkout], None]) -> Checkout:
        made, done = Checkout(base / name / "repository"), base / name / "done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(base / name, ignore_errors=True)  # of a worker that failed at it
                (base / name).mkdir()
                make(made)
                done.touch()
        return made

    return get


@pytest.fixture(scope="session")
def checkout(once: Callable[..., Checkout]) -> Checkout:
    """The repository as a fresh clone of what is in the working tree, with one experiment.

    Nothing was run in it. Its DVC remote is a folder beside it.
    """
    return once("fresh", _clone)


def _clone(made: Checkout) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        # Without the experiments that are kept there: DVC reads all of a repository, every time.
        if os.path.lexists(ROOT / name) and not name.startswith("experiments/"):
            (made.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made.root / name, follow_symlinks=False)
    made.write(few(fixture()))
    store = str(made.root.parent / "store")
    made.run("git", "init", "--quiet", str(made.root))
    made.run("dvc", "remote", "add", "--quiet", "--default", "store", store)
    made.run("git", "add", "--all", str(made.root))
    made.run("git", "commit", "--quiet", "--message", "The repository with an experiment")


@pytest.fixture(scope="session")
def finished(checkout: Checkout, once: Callable[..., Checkout]) -> Checkout:
    """The experiment run once by Snakemake, for tests that only read; others copy it."""

    def make(made: Checkout) -> None:
        checkout.copy(made.root)
        made.snakemake()

    return once("finished", make)


def fixture() -> dict[str, Any]:
    """The parameters of the tests' world, free to be changed."""
    text = (ROOT / "tests/fixture/params.yaml").read_text()
    return json.loads(json.dumps(yaml.safe_load(text)))  # YAML's anchors become copies


def few(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters with three methods alone, and nothing that is made of samples."""
    nothing = (
        "decoders", "sweeps", "disturbances", "layers", "concepts", "probes", "edits",
        "disentangled",
    )  # fmt: skip
    methods = ["spatial", "pooled", "unconditional"]
    params["compare"] |= {name: [] for name in nothing}
    params["compare"] |= {"adapters": ["spatial", "pooled"], "methods": methods}
    return params


def compare_all(params: dict[str, Any]) -> None:
    """Let the experiment run everything again that the fixture runs, with the same backbones."""
    kept = ("networks", "backbones")
    everything = fixture()["compare"].items()
    params["compare"] |= {name: value for name, value in everything if name not in kept}


def every_rule_once(params: dict[str, Any]) -> None:
    """Leave the experiment with one method, one adapter, one decoder, sweep and disturbance."""
    params["compare"] |= {
        "adapters": ["spatial"], "decoders": ["decoder"], "methods": ["spatial"],
        "ranking": ["spatial"], "sweeps": ["guidance"], "disturbances": ["dropout"],
        "layers": ["depth"], "concepts": ["factors"], "probes": ["factors"],
        "edits": ["fills"], "disentangled": ["fills"],
    }  # fmt: skip


@pytest.fixture(scope="session")
def compared(finished: Checkout, once: Callable[..., Checkout]) -> Checkout:
    """The finished experiment with every method beside the first three."""

    def make(made: Checkout) -> None:
        finished.copy(made.root)
        made.edit(compare_all)
        made.snakemake()

    return once("compared", make)


@pytest.fixture(scope="session")
def recorded(finished: Checkout, once: Callable[..., Checkout]) -> Checkout:
    """A finished run that DVC has recorded and stored, committed to git."""

    def make(made: Checkout) -> None:
        finished.copy(made.root)
        made.run("dvc", "commit", "--force", "dvc.yaml")
        commit(made)
        made.run("dvc", "push", "dvc.yaml")

    return once("recorded", make)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """The one-machine SLURM cluster, up; one that was up before stays so."""
    from slurm_cluster import CONFIGURATION, PROGRAMS, control

    if os.geteuid() != 0:
        pytest.skip("starting SLURM needs root")
    for program in PROGRAMS:
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


@pytest.fixture(scope="session")
def folder(finished: Checkout) -> Path:
    """Where the finished experiment lies."""
    return finished.experiment


@pytest.fixture(scope="session")
def params(finished: Checkout) -> dict:
    """Its parameters."""
    return finished.params


@pytest.fixture(scope="session")
def ids(folder: Path) -> dict[str, list[str]]:
    """The manifest's ids by split: the order that everything else must keep."""
    import pandas as pd

    table = pd.read_parquet(folder / "data/manifest.parquet")
    return {
        split: table.image_id[table.split == split].tolist() for split in ("train", "val", "test")
    }


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return ROOT


@pytest.fixture
def fixture_params() -> dict[str, Any]:
    """The fixture experiment's parameters, free to be changed (YAML anchors are copies here)."""
    return few(fixture())


@pytest.fixture
def complaint(tmp_path: Path, fixture_params: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    """Call with {dotted path: value or LEFT_OUT} to change the fixture's; returns what is said."""
    from pipeline.settings.load import load_settings
    from sacd.errors import SacdError

    def say(changes: dict[str, Any]) -> str:
        for path, value in changes.items():
            *parents, key = path.split(".")
            place = fixture_params
            for name in parents:
                place = place[name]
            if value is LEFT_OUT:
                del place[key]
            else:
                place[key] = value
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(fixture_params))
        with pytest.raises(SacdError) as caught:
            load_settings(file)
        message = str(caught.value)
        assert message.startswith(str(file))
        return message

    return say


@pytest.fixture
def in_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], Path]:
    """Call with parameters: writes params.yaml into a new folder and makes it the current one."""

    def enter(params: dict[str, Any]) -> Path:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return enter


@pytest.fixture
def call_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Call with a stage's or dotted name and arguments: (exit status, what it wrote to stderr).

    The stage runs in this process, in the frame that `python -m stages.NAME` gives it; any
    exception but the one meant for people comes out here and fails the test.
    """

    def call(name: str, *arguments: str) -> tuple[int, str]:
        from pipeline.program import run

        main = import_module(program(name)).main
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        try:
            run(main)
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call
