"""What Snakemake made DVC takes for made, and the other way round."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import EXPERIMENT, Checkout, commit, environment, every_rule_once
from dry_run import planned

NOTHING = "Nothing to be done"
LAST = "test_dvc_makes_everything_and_snakemake_takes_it"


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


def make(target: str, checkout: Checkout, experiment: str) -> subprocess.CompletedProcess:
    """`make pull` or another with this test's environment in place of what `make env` installs."""
    return subprocess.run(
        ["make", target, f"EXPERIMENT={experiment}", "--assume-old", ".venv/.installed"],
        cwd=checkout.root, env=environment(DVC_SITE_CACHE_DIR=f"{checkout.root}-dvc-notes"),
        text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def clone(checkout: Checkout, where: Path) -> Checkout:
    subprocess.run(["git", "clone", "--quiet", str(checkout.root), str(where)], check=True)
    return Checkout(where)


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


class TestPull:
    def test_a_clone_is_up_to_date_after_it(self, recorded: Checkout, tmp_path: Path):
        made = clone(recorded, tmp_path / "repository")
        done = make("pull", made, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert NOTHING in made.snakemake("--dry-run").stdout
        caches = [*made.experiment.glob("latents/*"), *made.experiment.glob("features/*/*")]
        assert {path.name for path in caches} == {"record.json"}  # the rest is not stored

        done = make("caches", made, str(EXPERIMENT))
        assert done.returncode == 0, done.stdout
        assert changed(made) == set()
        assert NOTHING in made.snakemake("--dry-run").stdout
        for path in recorded.experiment.rglob("*.safetensors"):
            twin = made.experiment / path.relative_to(recorded.experiment)
            assert twin.read_bytes() == path.read_bytes()
        # Snakemake knows the parameters again, too: an edit is seen.
        made.edit(lambda params: params["methods"]["pooled"].update(steps=4))
        assert planned_rules(made)["draw_samples"] == 1

    def test_what_is_stale_is_not_marked_as_made(self, recorded: Checkout, tmp_path: Path):
        """Neither after the edit of a parameter nor of a result."""
        made = clone(recorded, tmp_path / "repository")
        made.edit(lambda params: params["methods"]["pooled"].update(steps=4))
        table = made.experiment / "results/tables/main.csv"
        table.write_text(table.read_text().replace("spatial", "special"))
        done = make("pull", made, str(EXPERIMENT))
        assert done.returncode != 0
        assert re.search(
            r"draw_samples@tiny_a-pooled: params\.yaml: .*methods\.pooled", done.stdout
        )
        assert "make_tables: results/tables: modified" in done.stdout
        assert f"{EXPERIMENT}: not what dvc.lock records" in done.stdout
        assert "nothing was marked as made" in done.stdout
        assert not (made.experiment / ".snakemake/metadata").exists()
        assert NOTHING not in made.snakemake("--dry-run").stdout

    def test_without_a_stored_file_nothing_is_marked(self, recorded: Checkout, tmp_path: Path):
        made = clone(recorded, tmp_path / "repository")
        made.run("dvc", "remote", "modify", "store", "url", str(tmp_path / "empty"))
        done = make("pull", made, str(EXPERIMENT))
        assert done.returncode != 0
        assert "samples/tiny_a/spatial" in done.stdout
        assert not (made.experiment / ".snakemake/metadata").exists()

    def test_at_the_root_and_without_probes(self, finished: Checkout, tmp_path: Path):
        """The same results as those of an experiment at the root, and of one on photographs, which
        has no probes, and so no folder of theirs."""
        made = finished.copy(tmp_path / "repository")
        shutil.rmtree(made.experiment / "models/probes")
        params = {**made.params, "root": "."}
        params["compare"]["probes"] = []
        for path in made.experiment.iterdir():
            if path.name not in ("params.yaml", "dvc.yaml"):
                shutil.rmtree(made.root / path.name, ignore_errors=True)
                shutil.move(path, made.root / path.name)
        shutil.rmtree(made.experiment)
        (made.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        at_root = RootCheckout(made.root)
        at_root.snakemake("--touch", "--forceall")
        at_root.run("dvc", "commit", "--force", "dvc.yaml")
        commit(at_root)
        at_root.run("dvc", "push", "dvc.yaml")
        pulled = RootCheckout(clone(at_root, tmp_path / "clone").root)
        done = make("pull", pulled, ".")
        assert done.returncode == 0, done.stdout
        assert NOTHING in pulled.snakemake("--dry-run").stdout


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


def test_dvc_makes_everything_and_snakemake_takes_it(
    reproducing: tuple[Checkout, subprocess.Popen], compared: Checkout
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
        twin = compared.experiment / path.relative_to(fresh.experiment)
        assert path.read_bytes() == twin.read_bytes(), twin
