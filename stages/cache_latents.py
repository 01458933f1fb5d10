"""Encode the prepared images of every split, and decode the test split again.

Writes latents/<split>/ and latents/round_trip/.
"""

import argparse
from pathlib import Path

from diffusers import AutoencoderKL
from torch import Tensor

from sacd.prior.latents import decode_latents, encode_images
from sacd.prior.prior import load_autoencoder
from sacd.shards import INDEX, Shards, write_shards
from stages.artefacts import (
    AUTOENCODER,
    ROUND_TRIP,
    SPLITS,
    VAE_WEIGHTS,
    image_folder,
    latent_folder,
)
from stages.common import Clock, content, device, progress, run, work_folder

ROWS_PER_SHARD = 1024


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    clock = Clock()
    vae = load_autoencoder(AUTOENCODER).to(device())
    weights = content(AUTOENCODER / VAE_WEIGHTS)
    for split in SPLITS:
        _encode(split, vae, weights)
    latents = Shards(latent_folder("test"))
    write_shards(
        ROUND_TRIP,
        work_folder("cache_latents", "round_trip", content(latents.folder / INDEX), weights),
        latents.ids,
        ROWS_PER_SHARD,
        lambda start, stop: {
            "images": decode_latents(vae, latents.read("latents", range(start, stop)), device())
        },
        {},
        progress("round trip"),
    )
    clock.finish(Path("latents/record.json"), {"autoencoder": weights})


def _encode(split: str, vae: AutoencoderKL, weights: str) -> None:
    images = Shards(image_folder(split))

    def block(start: int, stop: int) -> dict[str, Tensor]:
        return {"latents": encode_images(vae, images.read("images", range(start, stop)), device())}

    write_shards(
        latent_folder(split),
        work_folder("cache_latents", split, content(images.folder / INDEX), weights),
        images.ids,
        ROWS_PER_SHARD,
        block,
        {"scaling_factor": vae.config.scaling_factor},
        progress(f"latents {split}"),
    )


if __name__ == "__main__":
    run(main)
