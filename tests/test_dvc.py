"""What Snakemake made DVC takes for made, and the other way round."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Checkout, environment, every_rule_once
from dry_run import planned
from recorded_run import NOTHING, changed, clone, planned_rules

from sacd.files import read_json, write_json

pytestmark = pytest.mark.campaign

LAST = "test_dvc_makes_everything_and_snakemake_takes_it"


def stale(checkout: Checkout) -> dict[str, int]:
    """How many stages of each rule `dvc repro` would run now, with all that comes after them."""
    listing = checkout.run("dvc", "repro", "--dry", "--force-downstream").stdout
    counts: dict[str, int] = {}
    for rule in re.findall(r"Running stage '(\w+)(?:@[\w-]+)?'", listing):
        counts[rule] = counts.get(rule, 0) + 1
    return counts


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

    made.edit(every_rule_once)
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

    def test_a_version(self, mine: Checkout):
        versions = read_json(mine.root / "workflow/versions.json")
        for stage in ("score_samples", "score_references"):
            versions["stages"][stage]["version"] += 1
        write_json(mine.root / "workflow/versions.json", versions)
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

    def test_code_of_the_same_version(self, mine: Checkout):
        """Another message, a module elsewhere, a private function of another name."""
        (mine.root / "sacd/errors.py").write_text(
            (mine.root / "sacd/errors.py").read_text() + "\nLIMIT = 3\n"
        )
        path = mine.root / "sacd/metrics/bootstrap.py"
        path.rename(path.with_name("resampling.py"))
        for path in [*mine.root.glob("stages/*.py"), *mine.root.glob("pipeline/*.py")]:
            text = path.read_text().replace("sacd.metrics.bootstrap", "sacd.metrics.resampling")
            path.write_text(text.replace("_rows(", "_lines("))
        assert NOTHING in mine.snakemake("--dry-run").stdout
        assert changed(mine) == set()


def test_dvc_makes_everything_and_snakemake_takes_it(
    reproducing: tuple[Checkout, subprocess.Popen], compared: Checkout
):
    """And it comes out as Snakemake alone made it."""
    fresh, process = reproducing
    failed = process.wait(timeout=2400)
    listing = (fresh.root.parent / "log").read_text()
    assert not failed, listing
    rules = set(yaml.safe_load((fresh.experiment / "dvc.yaml").read_text())["stages"])
    assert set(re.findall(r"Running stage '(\w+)", listing)) == rules
    assert NOTHING in fresh.snakemake("--dry-run").stdout
    assert changed(fresh) == set()

    made = [*fresh.experiment.rglob("*.safetensors"), fresh.experiment / "data/manifest.parquet"]
    made += fresh.experiment.glob("scores/*/spatial.parquet")
    assert len(made) > 20
    for path in made:
        twin = compared.experiment / path.relative_to(fresh.experiment)
        assert path.read_bytes() == twin.read_bytes(), twin
