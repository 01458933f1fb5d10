"""Record a finished run: `python workflow/record.py FOLDER` (`make record EXPERIMENT=NAME`).

Every digest is verified; results that params.yaml names no more are removed; DVC takes all outputs
into its cache and lock. In the end both tools must find nothing to do.
"""

import subprocess
import sys
from pathlib import Path

from mark_made import differences  # of this folder

WORKFLOW = Path(__file__).resolve().parent
sys.path.insert(0, str(WORKFLOW.parent))

from pipeline.artefacts import PLACES  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    subprocess.run([sys.executable, str(WORKFLOW / "dvc_stages.py"), str(folder)], check=True)
    if _planned(folder):
        sys.exit(f"error: {folder}: is not finished; run snakemake --directory {folder} first.")
    for path in sorted(_left_over(folder)):
        print(f"removed, for params.yaml names it no more: {path}")
        path.unlink()
    if subprocess.run([sys.executable, str(WORKFLOW / "verify.py"), str(folder)]).returncode:
        sys.exit(f"error: {folder}: not recorded (see above); make these again.")
    subprocess.run(["dvc", "commit", "--force", "--quiet", "dvc.yaml"], cwd=folder, check=True)
    if found := differences(folder):
        sys.exit("\n".join([*found, f"error: {folder}: DVC finds it changed after recording it."]))
    print(f"{folder}: recorded; commit dvc.lock and results/ to git, and `dvc push`.")


def _planned(folder: Path) -> bool:
    """Whether Snakemake would make anything."""
    done = subprocess.run(
        ["snakemake", "--dry-run", "--quiet", "--directory", str(folder)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return "Nothing to be done" not in done.stdout + done.stderr


def _left_over(folder: Path) -> list[Path]:
    """Files among the outputs that no stage of dvc.yaml makes."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        made = [
            Path(out.fs_path)
            for stage in repo.index.stages
            if Path(stage.path).parent == folder.resolve()
            for out in stage.outs
        ]
    # What a link leads to may be another experiment's, too: nothing is removed there.
    places = [folder.resolve() / place for place in PLACES]
    there = (path for place in places if not place.is_symlink() for path in place.rglob("*"))
    return [
        path
        for path in there
        if path.is_file() and not any(path.is_relative_to(output) for output in made)
    ]


if __name__ == "__main__":
    main()
