"""Snakemake and DVC tell the same story, and what one made the other takes for made."""

import ast
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import EXPERIMENT, ROOT, Checkout, environment

from stages.code import code_files

NOTHING = "Nothing to be done"
LAST = "test_dvc_makes_everything_and_snakemake_takes_it"
Node = tuple[str, str]  # a rule and the backbone of the job, if it has one


@dataclass(frozen=True)
class Job:
    """A job of Snakemake's, as a dry run lists it."""

    rule: str
    backbone: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    @property
    def node(self) -> Node:
        return self.rule, self.backbone


def planned(listing: str) -> list[Job]:
    """The jobs that a dry run would do."""
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", listing)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block).group(1)
        inputs, outputs, wildcards = (
            frozenset(found.group(1).split(", ") if found else ())
            for found in (
                re.search(rf"^ +{key}: (.+)$", block, re.MULTILINE)
                for key in ("input", "output", "wildcards")
            )
        )
        backbone = next((w for w in wildcards if w.startswith("backbone=")), "")
        jobs.append(Job(rule, backbone.removeprefix("backbone="), inputs, outputs))
    return [job for job in jobs if job.rule != "all"]


def planned_rules(checkout: Checkout) -> dict[str, int]:
    """How often each rule would run now."""
    counts: dict[str, int] = {}
    for job in planned(checkout.snakemake("--dry-run").stdout):
        counts[job.rule] = counts.get(job.rule, 0) + 1
    return counts


def stale(checkout: Checkout) -> dict[str, int]:
    """How many stages of each rule `dvc repro` would run now, with all that comes after them."""
    listing = checkout.run("dvc", "repro", "--dry", "--force-downstream").stdout
    counts: dict[str, int] = {}
    for rule in re.findall(r"Running stage '(\w+)(?:@[\w-]+)?'", listing):
        counts[rule] = counts.get(rule, 0) + 1
    return counts


def changed(checkout: Checkout) -> set[str]:
    """Stages whose own dependencies changed, by `dvc status`."""
    return set(json.loads(checkout.run("dvc", "status", "dvc.yaml", "--json").stdout))


def make_pull(checkout: Checkout, experiment: str) -> subprocess.CompletedProcess:
    """`make pull` with this test's environment in place of the one that `make env` installs."""
    return subprocess.run(
        ["make", "pull", f"EXPERIMENT={experiment}", "--assume-old", ".venv/.installed"],
        cwd=checkout.root, env=environment(DVC_SITE_CACHE_DIR=f"{checkout.root}-dvc-notes"),
        text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def commit(checkout: Checkout) -> None:
    checkout.run("git", "add", "--all", str(checkout.root))
    checkout.run("git", "commit", "--quiet", "--message", "Results")


def clone(checkout: Checkout, where: Path) -> Checkout:
    subprocess.run(["git", "clone", "--quiet", str(checkout.root), str(where)], check=True)
    return Checkout(where)


@pytest.fixture(scope="module")
def recorded(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A finished run that DVC has recorded and stored, committed to git."""
    made = finished.copy(tmp_path_factory.mktemp("recorded") / "repository")
    made.run("dvc", "commit", "--force", "dvc.yaml")
    commit(made)
    made.run("dvc", "push", "dvc.yaml")
    return made


@pytest.fixture(scope="module", autouse=True)
def reproducing(
    request: pytest.FixtureRequest, checkout: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Checkout, subprocess.Popen] | None]:
    """`dvc repro` in a fresh clone. It takes two minutes and one core: the other tests run beside.

    With one method, to save time: every stage once.
    """
    if not any(item.name == LAST for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("reproducing")
    made = clone(checkout, folder / "repository")

    def less(params: dict[str, Any]) -> None:
        params["compare"] |= {"methods": ["spatial"], "adapters": ["spatial"]}

    made.edit(less)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=made.experiment, env=environment(DVC_SITE_CACHE_DIR=str(folder / "dvc-notes")),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield made, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def mine(recorded: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the recorded run to change."""
    return recorded.copy(tmp_path / "repository")


class TestOneMakesTheOtherTakes:
    def test_a_snakemake_run_is_recorded_without_computing_again(self, recorded: Checkout):
        listing = recorded.run("dvc", "repro").stdout
        stages = yaml.safe_load((recorded.experiment / "dvc.lock").read_text())["stages"]
        for name in stages:
            assert f"Stage '{name}' didn't change, skipping" in listing
        assert "Running stage" not in listing
        assert "Data and pipelines are up to date." in listing
        assert changed(recorded) == set()
        assert NOTHING in recorded.snakemake("--dry-run").stdout
        assert not recorded.run("git", "status", "--porcelain").stdout

    def test_dvc_reruns_what_a_parameter_changed_and_snakemake_takes_it(self, mine: Checkout):
        mine.edit(lambda params: params["compare"].update(gap_closed=0.9))
        listing = mine.run("dvc", "repro").stdout
        ran = re.findall(r"Running stage '(\w+)", listing)
        assert ran == ["make_tables", "plot_figures", "write_report"]
        checks = (mine.experiment / "results/tables/checks.csv").read_text()
        assert re.search(r"share of the way.*,0\.9,(True|False)$", checks, re.MULTILINE)
        assert NOTHING in mine.snakemake("--dry-run").stdout
        assert changed(mine) == set()


class TestPull:
    def test_a_clone_is_up_to_date_after_it(self, recorded: Checkout, tmp_path: Path):
        made = clone(recorded, tmp_path / "repository")
        done = make_pull(made, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert changed(made) == set()
        assert NOTHING in made.snakemake("--dry-run").stdout
        for path in recorded.experiment.rglob("*.safetensors"):
            twin = made.experiment / path.relative_to(recorded.experiment)
            assert twin.read_bytes() == path.read_bytes()
        # Snakemake knows the parameters again, too: an edit is seen.
        made.edit(lambda params: params["methods"]["pooled"].update(steps=4))
        assert planned_rules(made)["draw_samples"] == 1

    @pytest.mark.parametrize("what", ["a parameter", "a result"])
    def test_what_is_stale_is_not_marked_as_made(
        self, recorded: Checkout, tmp_path: Path, what: str
    ):
        made = clone(recorded, tmp_path / "repository")
        if what == "a parameter":
            made.edit(lambda params: params["methods"]["pooled"].update(steps=4))
            named = "methods.pooled"
        else:
            table = made.experiment / "results/tables/main.csv"
            table.write_text(table.read_text().replace("spatial", "special"))
            named = "results/tables"
        done = make_pull(made, str(EXPERIMENT))
        assert done.returncode != 0
        assert named in done.stdout
        assert f"{EXPERIMENT}: not what dvc.lock records" in done.stdout
        assert "nothing was marked as made" in done.stdout
        assert not (made.experiment / ".snakemake/metadata").exists()
        assert NOTHING not in made.snakemake("--dry-run").stdout

    def test_without_probes(self, mine: Checkout, tmp_path: Path):
        """An experiment on photographs has none, and so no folder of theirs (the rest is as is)."""
        shutil.rmtree(mine.experiment / "models/probes")
        mine.edit(lambda params: params["compare"].update(probes=[]))
        mine.snakemake("--touch", "--forceall")
        mine.run("dvc", "commit", "--force", "dvc.yaml")
        assert changed(mine) == set()
        commit(mine)
        mine.run("dvc", "push", "dvc.yaml")
        made = clone(mine, tmp_path / "clone")
        done = make_pull(made, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert changed(made) == set()
        assert NOTHING in made.snakemake("--dry-run").stdout

    def test_without_a_stored_file_nothing_is_marked(self, recorded: Checkout, tmp_path: Path):
        made = clone(recorded, tmp_path / "repository")
        made.run("dvc", "remote", "modify", "store", "url", str(tmp_path / "empty"))
        done = make_pull(made, str(EXPERIMENT))
        assert done.returncode != 0
        assert "samples/tiny_a/spatial" in done.stdout
        assert not (made.experiment / ".snakemake/metadata").exists()

    def test_at_the_root(self, finished: Checkout, tmp_path: Path):
        """The same results as those of an experiment at the root."""
        made = finished.copy(tmp_path / "repository")
        params = {**made.params, "root": "."}
        for path in made.experiment.iterdir():
            if path.name not in ("params.yaml", "dvc.yaml"):
                shutil.rmtree(made.root / path.name, ignore_errors=True)
                shutil.move(path, made.root / path.name)
        shutil.rmtree(made.experiment)
        (made.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        at_root = RootCheckout(made.root)
        assert NOTHING in at_root.snakemake("--dry-run").stdout
        at_root.run("dvc", "commit", "--force", "dvc.yaml")
        commit(at_root)
        at_root.run("dvc", "push", "dvc.yaml")
        pulled = RootCheckout(clone(at_root, tmp_path / "clone").root)
        done = make_pull(pulled, ".")
        assert done.returncode == 0, done.stdout
        assert NOTHING in pulled.snakemake("--dry-run").stdout
        assert changed(pulled) == set()


class RootCheckout(Checkout):
    """A copy of the repository whose experiment is the root itself."""

    @property
    def experiment(self) -> Path:
        return self.root


class TestOnlyWhatDependsRunsAgain:
    def test_a_parameter_of_one_backbone(self, mine: Checkout):
        """The judge sees otherwise: what it scores changes, and nothing that was trained."""
        mine.edit(lambda params: params["backbones"]["tiny_judge"].update(std=[0.3, 0.3, 0.3]))
        methods = len(mine.params["compare"]["methods"])
        expected = {
            "make_backbone": 1, "cache_features": 1, "score_samples": methods,
            "score_references": 1, "make_tables": 1, "plot_figures": 1, "write_report": 1,
        }  # fmt: skip
        jobs = planned(mine.snakemake("--dry-run").stdout)
        assert planned_rules(mine) == expected
        assert {job.backbone for job in jobs if job.rule == "make_backbone"} == {"tiny_judge"}
        assert {job.backbone for job in jobs if job.rule == "cache_features"} == {"tiny_judge"}
        assert stale(mine) == expected
        assert changed(mine) == {"make_backbone@tiny_judge"}

    def test_a_parameter_of_one_method(self, mine: Checkout):
        mine.edit(lambda params: params["methods"]["unconditional"].update(steps=4))
        expected = {
            "draw_samples": 1, "score_samples": 1,
            "make_tables": 1, "plot_figures": 1, "write_report": 1,
        }  # fmt: skip
        assert planned_rules(mine) == stale(mine) == expected
        assert changed(mine) == {"draw_samples@tiny_a-unconditional"}

    def test_code_that_a_stage_uses(self, mine: Checkout):
        source = mine.root / "sacd/metrics/features.py"
        source.write_text(source.read_text() + "\nLIMIT = 3\n")
        methods = mine.params["compare"]["methods"]
        expected = {
            "score_samples": len(methods), "score_references": 1,
            "make_tables": 1, "plot_figures": 1, "write_report": 1,
        }  # fmt: skip
        assert planned_rules(mine) == stale(mine) == expected
        assert changed(mine) == {
            *(f"score_samples@tiny_a-{method}" for method in methods),
            "score_references@tiny_a",
        }

    def test_a_comment(self, mine: Checkout):
        """Snakemake sees none; DVC only the stages that the files belong to."""
        for name in ("sacd/metrics/bootstrap.py", "stages/cli.py", "environment.yml"):
            path = mine.root / name
            path.write_text(path.read_text() + "\n# A comment.\n")
        assert NOTHING in mine.snakemake("--dry-run").stdout
        assert changed(mine) == {"make_tables"}


@pytest.fixture(scope="module")
def two(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """With a second inverted backbone, imported from a file, so that mix-ups would show."""
    made = checkout.copy(tmp_path_factory.mktemp("two") / "repository")
    weights = made.root / "pretrained/tiny.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.touch()

    def add(params: dict[str, Any]) -> None:
        params["backbones"]["tiny_b"] = {
            **params["backbones"]["tiny_a"],
            "source": f"../../{weights.relative_to(made.root)}",
            "refinement": None,
        }
        compare = params["compare"]
        compare |= {
            "networks": [*compare["networks"], "tiny_b"], "backbones": ["tiny_a", "tiny_b"],
        }  # fmt: skip

    made.edit(add)
    return made


@pytest.fixture(scope="module")
def jobs(two: Checkout) -> list[Job]:
    return planned(two.snakemake("--dry-run", "--forceall").stdout)


@pytest.fixture(scope="module")
def graph(two: Checkout) -> Iterator[Any]:
    """DVC's own graph of its stages; an edge leads from a stage to one that it needs."""
    from dvc.repo import Repo

    with pytest.MonkeyPatch.context() as patch, Repo(str(two.experiment)) as repo:
        patch.chdir(two.experiment)
        whole = repo.index.graph
        ours = [stage for stage in whole if Path(stage.path).parent == two.experiment]
        yield whole.subgraph(ours)


@pytest.fixture(scope="module")
def pairs(two: Checkout, jobs: list[Job], graph: Any) -> list[tuple[Job, Any]]:
    """Each job and the stages that have all of its outputs in theirs."""
    return [
        (job, stage)
        for job in jobs
        for stage in graph
        if all(
            any(inside(two.experiment / path, Path(out.fs_path)) for out in stage.outs)
            for path in job.outputs
        )
    ]


class TestOneGraph:
    def test_every_job_is_one_stage(self, jobs: list[Job], graph: Any, pairs):
        assert len(jobs) == len(graph) == len(pairs)
        assert {job for job, _ in pairs} == set(jobs)
        assert {stage.addressing for _, stage in pairs} == {stage.addressing for stage in graph}
        for job, stage in pairs:
            rule, _, loop = stage.name.partition("@")
            assert rule == job.rule
            assert loop.split("-")[0] == job.backbone or not job.backbone

    def test_a_stage_makes_the_target_of_its_job(self, pairs):
        for job, stage in pairs:
            program, target, option, snakefile = stage.cmd.split()
            assert (program, option, snakefile) == ("snakemake", "--snakefile", "../../Snakefile")
            assert target in job.outputs

    def test_what_a_job_reads_is_a_dependency_of_its_stage(self, two: Checkout, pairs):
        for job, stage in pairs:
            dependencies = [Path(dep.fs_path) for dep in stage.deps]
            for path in job.inputs:
                place = (two.experiment / path).resolve()
                assert any(inside(place, dep) for dep in dependencies), (stage.name, path)

    def test_the_edges_are_the_same(self, jobs: list[Job], graph: Any, pairs):
        """By rule and backbone: DVC lets samples wait for all adapters of their backbone."""
        maker = {path: job for job in jobs for path in job.outputs}
        snakemakes = {
            (job.node, maker[path].node) for job in jobs for path in job.inputs & set(maker)
        }
        node = {stage.addressing: job.node for job, stage in pairs}
        dvcs = {(node[one.addressing], node[other.addressing]) for one, other in graph.edges}
        assert snakemakes == dvcs
        assert (("train_adapter", "tiny_b"), ("cache_features", "tiny_b")) in dvcs
        assert (("train_adapter", "tiny_b"), ("cache_features", "tiny_a")) not in dvcs

    def test_parameters_are_the_same(self, recorded: Checkout):
        """The sections that Snakemake noted when it ran and those that DVC recorded."""
        lock = yaml.safe_load((recorded.experiment / "dvc.lock").read_text())["stages"]
        stages = {
            target(stage["cmd"]): stage.get("params", {}).get("params.yaml", {})
            for stage in lock.values()
        }
        noted = {}
        for path in (recorded.experiment / ".snakemake/metadata").iterdir():
            literals = [ast.literal_eval(text) for text in json.loads(path.read_text())["params"]]
            sections = next((value for value in literals if isinstance(value, dict)), {})
            noted[decoded(path.name)] = {k: json.loads(text) for k, text in sections.items()}
        assert set(stages) <= set(noted)
        for made, sections in stages.items():
            assert set(noted[made]) == set(sections), made
            assert noted[made] == sections, made
        assert sum(map(len, stages.values())) > 30

    def test_code_is_what_the_stages_import(self):
        """Named by dvc.yaml, found by `code_files`, and really imported by each stage."""
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
        imported = really_imported(list(stages))
        for name, stage in stages.items():
            named = {dep.removeprefix("${root}/") for dep in stage["deps"]}
            code = {path for path in named if path.endswith(".py")}
            assert code == {path.as_posix() for path in code_files(f"stages.{name}")}
            # A package's __init__.py is found only where it has more to it than a docstring.
            unnamed = imported[name] - code
            assert not {path for path in unnamed if not says_nothing(ROOT / path)}, name
            rules = [path for path in named if path.endswith(".smk")]
            assert len(rules) == 1
            assert re.search(rf"^rule {name}:$", (ROOT / rules[0]).read_text(), re.MULTILINE)

    def test_the_file_is_what_its_writer_writes(self, checkout: Checkout, tmp_path: Path):
        copy = checkout.copy(tmp_path / "repository")
        written = (copy.root / "dvc.yaml").read_text()
        copy.run(sys.executable, str(copy.root / "workflow/dvc_stages.py"))
        assert (copy.root / "dvc.yaml").read_text() == written

    def test_experiments_share_it(self):
        for params in ROOT.glob("experiments/*/params.yaml"):
            link = params.with_name("dvc.yaml")
            if link.exists():
                assert link.is_symlink()
                assert link.resolve() == ROOT / "dvc.yaml"
            assert yaml.safe_load(params.read_text())["root"] == "../.."


def test_dvc_makes_everything_and_snakemake_takes_it(
    reproducing: tuple[Checkout, subprocess.Popen], finished: Checkout
):
    """And it comes out as Snakemake alone made it."""
    fresh, process = reproducing
    failed = process.wait(timeout=1200)
    listing = (fresh.root.parent / "log").read_text()
    assert not failed, listing
    rules = set(yaml.safe_load((fresh.root / "dvc.yaml").read_text())["stages"])
    assert set(re.findall(r"Running stage '(\w+)", listing)) == rules
    assert NOTHING in fresh.snakemake("--dry-run").stdout
    assert changed(fresh) == set()

    made = [*fresh.experiment.rglob("*.safetensors"), fresh.experiment / "data/manifest.parquet"]
    made += fresh.experiment.glob("scores/*/spatial.parquet")
    assert len(made) > 20
    for path in made:
        twin = finished.experiment / path.relative_to(fresh.experiment)
        assert path.read_bytes() == twin.read_bytes(), twin


def inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def says_nothing(path: Path) -> bool:
    body = ast.parse(path.read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def target(command: str) -> str:
    return command.split()[1]


def decoded(name: str) -> str:
    """The output that a file of Snakemake's notes is about."""
    return base64.b64decode(name.removeprefix("@")).decode()


def really_imported(stages: list[str]) -> dict[str, set[str]]:
    """Our files that each stage's module loads when it is imported in a process of its own."""
    program = """\
import json, os, sys
import diffusers, matplotlib.pyplot, pandas, timm, torch, torchvision  # once, before the forks
def ours():
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    paths = [os.path.relpath(file) for file in files if file]
    return [path for path in paths if path.startswith(("sacd/", "stages/"))]
for name in sys.argv[1:]:
    sys.stdout.flush()
    if not os.fork():
        __import__(f"stages.{name}")
        print(json.dumps([name, ours()]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *stages],
        cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name: set(files) for name, files in map(json.loads, done.stdout.splitlines())}
