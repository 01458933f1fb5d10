"""Snakemake and DVC have one graph: jobs, files, parameters, code and edges."""

import ast
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Checkout, compare_all
from dry_run import Job, planned
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo


@pytest.fixture(scope="module")
def two(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """With all methods and a second inverted backbone, from a file, so that mix-ups would show."""
    made = checkout.copy(tmp_path_factory.mktemp("two") / "repository")
    weights = made.root / "pretrained/tiny.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.touch()

    def add(params: dict[str, Any]) -> None:
        params["backbones"]["tiny_b"] = {
            **params["backbones"]["tiny_a"],
            "source": f"../../{weights.relative_to(made.root)}",
            "finetune": None,
        }
        compare = params["compare"]
        compare |= {
            "networks": [*compare["networks"], "tiny_b"], "backbones": ["tiny_a", "tiny_b"],
        }  # fmt: skip

    made.edit(add)
    made.edit(compare_all)
    return made


@pytest.fixture(scope="module")
def jobs(two: Checkout) -> list[Job]:
    return planned(two.snakemake("--dry-run", "--forceall").stdout)


@pytest.fixture(scope="module")
def graph(two: Checkout) -> Iterator[Any]:
    """DVC's own graph of its stages; an edge leads from a stage to one that it needs."""
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
        noted = noted_sections(recorded)
        assert set(stages) <= set(noted)
        for made, sections in stages.items():
            assert set(noted[made]) == set(sections), made
            assert noted[made] == sections, made
        assert sum(map(len, stages.values())) > 30

    def test_sections_of_every_rule_are_the_same(self, compared: Checkout):
        """Those that Snakemake noted and those that dvc.yaml names, whatever they hold."""
        with pytest.MonkeyPatch.context() as patch, Repo(str(compared.experiment)) as repo:
            patch.chdir(compared.experiment)
            named = {
                target(stage.cmd): {
                    path
                    for dependency in stage.deps
                    if isinstance(dependency, ParamsDependency)
                    and Path(dependency.fs_path).name == "params.yaml"
                    for path in dependency.params
                }
                for stage in repo.index.stages
                if Path(stage.path).parent == compared.experiment
            }
        noted = noted_sections(compared)
        assert len({section for made in named for section in noted[made]}) > 15
        for made, sections in named.items():
            assert set(noted[made]) == sections, made

    def test_a_stage_depends_on_its_version_and_on_no_code(self, graph: Any):
        for stage in graph:
            rule = stage.name.partition("@")[0]
            versions = [
                dependency.params
                for dependency in stage.deps
                if Path(dependency.fs_path).name == "versions.json"
            ]
            assert versions == [[f"stages.{rule}.version"]]
            assert not [dep for dep in stage.deps if dep.fs_path.endswith((".py", ".smk"))]

    def test_files_are_what_their_writer_writes(self):
        sys.path.insert(0, str(ROOT / "workflow"))
        from dvc_stages import dvc_yaml

        folders = [path.parent for path in ROOT.glob("experiments/*/params.yaml")]
        assert len(folders) > 5
        for folder in [ROOT, *folders]:
            assert (folder / "dvc.yaml").read_text() == dvc_yaml(folder), (
                f"{folder / 'dvc.yaml'}: run `python workflow/dvc_stages.py`"
            )
            assert (folder / "dvc.yaml").read_text().count("\n") < 500


def inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def target(command: str) -> str:
    return command.split()[1]


def noted_sections(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """By output, the sections of params.yaml that Snakemake noted when it made it."""
    noted = {}
    for path in (checkout.experiment / ".snakemake/metadata").iterdir():
        literals = [ast.literal_eval(text) for text in json.loads(path.read_text())["params"]]
        sections = next((value for value in literals if isinstance(value, dict)), {})
        noted[decoded(path.name)] = {k: json.loads(text) for k, text in sections.items()}
    return noted


def decoded(name: str) -> str:
    """The output that a file of Snakemake's notes is about."""
    return base64.b64decode(name.removeprefix("@")).decode()
