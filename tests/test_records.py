"""What is committed as recorded is not stale by parameters, versions or commands."""

import re
from pathlib import Path

import pytest
from conftest import ROOT
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

LISTED = (ROOT / "experiments/README.md").read_text()
EARLIER = set(re.findall(r"^\| \[(\w+)\].*recorded by earlier code \|$", LISTED, re.MULTILINE))
LOCKED = sorted(path.parent for path in [ROOT / "dvc.lock", *ROOT.glob("experiments/*/dvc.lock")])


def named(folder: Path) -> str:
    return "root" if folder == ROOT else folder.name


def stale(folder: Path) -> dict[str, object]:
    """By stage, how parameters, versions or command differ from what dvc.lock records."""
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, Repo(str(folder)) as repo:
        patch.chdir(folder)
        stages = [stage for stage in repo.index.stages if Path(stage.path).parent == folder]
        for stage in stages:
            parameters = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            changes = {key: value for dep in parameters for key, value in dep.status().items()}
            if stage.changed_stage():
                changes["cmd"] = stage.cmd
            if changes:
                found[stage.addressing] = changes
    assert len(stages) > 20
    return found


@pytest.mark.parametrize("folder", LOCKED, ids=lambda folder: folder.name)
def test_no_stage_of_a_recorded_experiment_is_stale(folder: Path) -> None:
    if named(folder) in EARLIER:
        pytest.skip("experiments/README.md says that earlier code recorded it")
    assert stale(folder) == {}


def test_every_experiment_is_listed() -> None:
    listed = set(re.findall(r"^\| \[(\w+)\]", LISTED, re.MULTILINE))
    folders = [path.parent for path in ROOT.glob("experiments/*/params.yaml")]
    assert listed == {named(folder) for folder in [ROOT, *folders]}
