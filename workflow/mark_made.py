"""Mark an experiment's files as made, for Snakemake: `python workflow/mark_made.py FOLDER`.

Snakemake goes by the times of files, which a clone and a pull make anew. Touching puts them in
order, but would pass stale files off as made: so only what DVC finds as recorded is touched. What
is not stored on remotes (`push: false` in dvc.yaml) may be missing.
"""

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    snakemake = ["snakemake", "--directory", str(folder)]
    if found := differences(folder):
        print("\n".join(found), file=sys.stderr)
        sys.exit(
            f"{folder}: not what dvc.lock records (see above), so nothing was marked as made. "
            f"Undo the edits and pull again, or run snakemake: features and latents that were made "
            f"anew on other hardware may be rounded otherwise, and so may what comes of them."
        )
    subprocess.run([*snakemake, "--touch", "--forceall", "--quiet"], check=True)


def differences(folder: Path) -> list[str]:
    """How the folder differs from dvc.lock, a line each.

    What is not stored may be missing, or be there without a copy in DVC's cache.
    """
    command = ["dvc", "status", "dvc.yaml", "--json"]
    status = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    light = not_stored(folder)
    missing = [path for path in light if not (folder / path).exists()]
    found = []
    for stage, changes in json.loads(status.stdout).items():
        for change in changes:
            # Either {"changed outs": {path: state}} or a text, as for a changed command.
            states = next(iter(change.values())) if isinstance(change, dict) else {change: "yes"}
            for path, state in states.items():
                lacking = any(Path(lack).is_relative_to(path) for lack in missing)
                if not lacking and not (path in light and state == "not in cache"):
                    found.append(f"{stage}: {path}: {state}")
    return found


def not_stored(folder: Path) -> list[str]:
    """The outputs that dvc.yaml keeps off remotes."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return [
            str(Path(out.fs_path).relative_to(folder.resolve()))
            for stage in repo.index.stages
            if Path(stage.path).parent == folder.resolve()
            for out in stage.outs
            if not out.can_push
        ]


if __name__ == "__main__":
    main()
