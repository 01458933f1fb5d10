"""Copy the models that experiments/pretrain trained to pretrained/, with a table of their records.

Run from the repository's root by `make pretrained`.
"""

import argparse
import shutil
from pathlib import Path

from sacd.errors import SacdError
from sacd.files import atomic
from stages.common import read_record, run

TRAINED = Path("experiments/pretrain/models")
SHIPPED = Path("pretrained")
LIMIT_BYTES = 15_000_000


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    folders = [
        path.parent
        for path in sorted(TRAINED.rglob("record.json"))
        if path.parent.name != "autoencoder"
    ]
    with atomic(SHIPPED) as temporary:
        for folder in folders:
            shutil.copytree(folder, temporary / folder.relative_to(TRAINED))
        # The prior's folder holds the autoencoder; its record belongs beside its weights.
        shutil.copy(TRAINED / "autoencoder/record.json", temporary / "prior/vae/record.json")
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        if size > LIMIT_BYTES:
            raise SacdError(f"{TRAINED}: {size} bytes, more than may ship ({LIMIT_BYTES}).")
        (temporary / "README.md").write_text(_table(folders))
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")


def _table(folders: list[Path]) -> str:
    """What each model is and how good, from the records of the runs."""
    lines = [
        "# Models of the embedded world",
        "",
        "Trained by `make pretrained` with the parameters in `experiments/pretrain/params.yaml`;",
        "the same command writes this page from each run's `record.json`.",
        "",
        "| model | validation | training seconds | device |",
        "|---|---|---|---|",
    ]
    for folder in [*folders, TRAINED / "autoencoder"]:
        record = read_record(folder)
        scores = {k: v for k, v in record.items() if k.startswith("val_")}
        shown = ", ".join(f"{k.removeprefix('val_')} {v}" for k, v in scores.items()) or "-"
        seconds = record["training"]["seconds"]
        lines.append(
            f"| {folder.relative_to(TRAINED)} | {shown} | {seconds} | {record['device']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
