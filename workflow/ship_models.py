"""Copy the models that experiments/pretrain trained to pretrained/, with a table of their worth.

Run from the repository's root by `make pretrained`.
"""

import argparse
import shutil
from pathlib import Path

from torch import Tensor

from pipeline.artefacts import image_folder
from pipeline.program import device, run
from pipeline.record import read_record
from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError
from sacd.features.cache import extract
from sacd.files import atomic
from sacd.metrics.features import class_scores, feature_scores
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.vae import load_autoencoder
from sacd.shards import Shards

EXPERIMENT = Path("experiments/pretrain")
TRAINED = EXPERIMENT / "models"
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
    images = Shards(EXPERIMENT / image_folder("val")).read_all("images")
    vae = load_autoencoder(TRAINED / "autoencoder").to(device())
    round_trip = decode_latents(vae, encode_images(vae, images, device()), device())
    lines = [
        "# Models of the embedded world",
        "",
        "Trained by `make pretrained` with the parameters in `experiments/pretrain/params.yaml`;",
        "the same command writes this page: from each run's `record.json`, and from what the",
        f"networks see in {len(images)} validation images and in their round trip.",
        "",
        "| model | validation | through the autoencoder | training seconds | device |",
        "|---|---|---|---|---|",
    ]
    for folder in [*folders, TRAINED / "autoencoder"]:
        record = read_record(folder)
        scores = {k: v for k, v in record.items() if k.startswith("val_")}
        shown = ", ".join(f"{k.removeprefix('val_')} {v}" for k, v in scores.items()) or "-"
        kept = _kept(folder, images, round_trip) if folder.parent.name == "backbones" else "-"
        name, seconds = folder.relative_to(TRAINED), record["training"]["seconds"]
        lines.append(f"| {name} | {shown} | {kept} | {seconds} | {record['device']} |")
    return "\n".join(lines) + "\n"


def _kept(folder: Path, images: Tensor, round_trip: Tensor) -> str:
    """Agreement of what a network sees in images and in their round trip."""
    backbone = Backbone.from_pretrained(folder).to(device())
    first, second = (extract(backbone, seen, device()) for seen in (images, round_trip))
    cosine = feature_scores(second["features"], first["features"])["cos_median"].mean()
    same = class_scores(second["logits"], first["logits"])["top1_match"].mean()
    return f"cos_median {cosine:.3f}, top1_match {same:.3f}"


if __name__ == "__main__":
    run(main)
