"""`make pull`: a clone fetches what a run recorded, and takes it for made."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import EXPERIMENT, Checkout, commit
from recorded_run import NOTHING, changed, clone, make, planned_rules

pytestmark = pytest.mark.campaign


class RootCheckout(Checkout):
    """A copy of the repository whose experiment is the root itself."""

    @property
    def experiment(self) -> Path:
        return self.root


def test_a_clone_is_up_to_date_after_it(recorded: Checkout, tmp_path: Path):
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


def test_what_is_stale_is_not_marked_as_made(recorded: Checkout, tmp_path: Path):
    """Neither after the edit of a parameter nor of a result."""
    made = clone(recorded, tmp_path / "repository")
    made.edit(lambda params: params["methods"]["pooled"].update(steps=4))
    table = made.experiment / "results/tables/main.csv"
    table.write_text(table.read_text().replace("spatial", "special"))
    done = make("pull", made, str(EXPERIMENT))
    assert done.returncode != 0
    assert re.search(r"draw_samples@tiny_a-pooled: params\.yaml: .*methods\.pooled", done.stdout)
    assert "make_tables: results/tables: modified" in done.stdout
    assert f"{EXPERIMENT}: not what dvc.lock records" in done.stdout
    assert "nothing was marked as made" in done.stdout
    assert not (made.experiment / ".snakemake/metadata").exists()
    assert NOTHING not in made.snakemake("--dry-run").stdout


def test_without_a_stored_file_nothing_is_marked(recorded: Checkout, tmp_path: Path):
    made = clone(recorded, tmp_path / "repository")
    made.run("dvc", "remote", "modify", "store", "url", str(tmp_path / "empty"))
    done = make("pull", made, str(EXPERIMENT))
    assert done.returncode != 0
    assert "samples/tiny_a/spatial" in done.stdout
    assert not (made.experiment / ".snakemake/metadata").exists()


def test_at_the_root_and_without_segmenters(finished: Checkout, tmp_path: Path):
    """The same results as those of an experiment at the root, and of one on photographs, which
    has no segmenters, and so no folder of theirs."""
    made = finished.copy(tmp_path / "repository")
    shutil.rmtree(made.experiment / "models/segmenters")
    params = made.params
    params["compare"]["segmenters"] = []
    for path in made.experiment.iterdir():
        if path.name not in ("params.yaml", "dvc.yaml"):
            shutil.rmtree(made.root / path.name, ignore_errors=True)
            shutil.move(path, made.root / path.name)
    shutil.rmtree(made.experiment)
    at_root = RootCheckout(made.root)
    at_root.write(params)
    at_root.snakemake("--touch", "--forceall")
    at_root.run("dvc", "commit", "--force", "dvc.yaml")
    commit(at_root)
    at_root.run("dvc", "push", "dvc.yaml")
    pulled = RootCheckout(clone(at_root, tmp_path / "clone").root)
    done = make("pull", pulled, ".")
    assert done.returncode == 0, done.stdout
    assert NOTHING in pulled.snakemake("--dry-run").stdout
