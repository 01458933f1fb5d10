"""Encode the prepared images of every split, and decode the test split again.

Writes latents/<split>/ and latents/round_trip/.
"""

import argparse
from pathlib import Path

from torch import Tensor

from pipeline.artefacts import (
    AUTOENCODER,
    ROUND_TRIP,
    SPLITS,
    VAE_WEIGHTS,
    image_folder,
    latent_folder,
)
from pipeline.program import device, progress, run
from pipeline.record import Recorder
from pipeline.work_folder import content, work_folder
from sacd.files import read_json
from sacd.networks import CONFIG
from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.vae import Autoencoder, load_autoencoder
from sacd.shards import INDEX, Shards, fill_shards, publish_shards

ROWS_PER_SHARD = 1024


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder = Recorder("cache_latents")
    vae = load_autoencoder(AUTOENCODER).to(device())
    identity = [content(AUTOENCODER / file) for file in (CONFIG, VAE_WEIGHTS)]
    filled = {latent_folder(split): _encode(split, vae, identity) for split in SPLITS}
    filled[ROUND_TRIP] = _decode(Shards(filled[latent_folder("test")]), vae, identity)
    for folder, work in filled.items():
        publish_shards(work, folder)
    recorder.write(
        Path("latents/record.json"), autoencoder=read_json(AUTOENCODER / CONFIG), files=identity
    )


def _encode(split: str, vae: Autoencoder, identity: list[str]) -> Path:
    """Latents of a split, in the work folder that is returned."""
    images = Shards(image_folder(split))

    def block(start: int, stop: int) -> dict[str, Tensor]:
        return {"latents": encode_images(vae, images.read("images", range(start, stop)), device())}

    work = work_folder("cache_latents", split, content(images.folder / INDEX), *identity)
    info = {"scaling_factor": vae.config.scaling_factor}
    fill_shards(work, images.ids, ROWS_PER_SHARD, block, info, progress(f"latents {split}"))
    return work


def _decode(latents: Shards, vae: Autoencoder, identity: list[str]) -> Path:
    """Images of latents, in the work folder that is returned."""

    def block(start: int, stop: int) -> dict[str, Tensor]:
        rows = latents.read("latents", range(start, stop))
        return {"images": decode_latents(vae, rows, device())}

    work = work_folder("cache_latents", "round_trip", content(latents.folder / INDEX), *identity)
    fill_shards(work, latents.ids, ROWS_PER_SHARD, block, {}, progress("round trip"))
    return work


if __name__ == "__main__":
    run(main)
