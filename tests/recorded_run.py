"""What programs say of a run that DVC recorded, and clones that fetch it."""

import json
import subprocess
from pathlib import Path

from conftest import Checkout, environment
from dry_run import planned

NOTHING = "Nothing to be done"


def planned_rules(checkout: Checkout) -> dict[str, int]:
    """How often each rule would run now."""
    counts: dict[str, int] = {}
    for job in planned(checkout.snakemake("--dry-run").stdout):
        counts[job.rule] = counts.get(job.rule, 0) + 1
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
