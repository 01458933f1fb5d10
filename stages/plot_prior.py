"""Draw what the prior dreams by itself beside real images: results/figures/prior_samples.png."""

import argparse

import torch
from torch import Tensor

from pipeline.artefacts import FIGURES, PRIOR, image_folder
from pipeline.program import device, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings
from sacd.figures.mosaic import plot_mosaics
from sacd.figures.style import save_figure
from sacd.numerics import numerics
from sacd.prior.latents import decode_latents
from sacd.prior.prior import Prior, latent_shape
from sacd.sampling.noise import initial_noise
from sacd.sampling.unconditional import sample_prior
from sacd.shards import Shards

IMAGES = 32
COLUMNS = 8
STEPS = 50
GUIDANCE, GUIDANCE_INTERVAL = 2.5, (0.0, 0.6)  # chosen as docs/embedded_world.md says
BATCH = 128


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("plot_prior"), load_settings()
    test = Shards(image_folder("test"))
    real = test.read("images", range(min(IMAGES, len(test))))
    prior = Prior.from_pretrained(PRIOR).to(device())
    dreamt = dream(prior, IMAGES, real.shape[-1], settings.seed)
    figure = plot_mosaics(
        {"images of this experiment": real, "drawn by the prior": dreamt}, COLUMNS
    )
    save_figure(figure, FIGURES / "prior_samples")
    recorder.write(FIGURES / "prior_samples.record.json", settings)


def dream(prior: Prior, count: int, size: int, seed: int, guidance: float = GUIDANCE) -> Tensor:
    """Images that the prior draws from noise alone: uint8 (count, 3, size, size)."""
    keys = [("prior", k) for k in range(count)]
    shape = (1 + STEPS, *latent_shape(prior, size))
    with numerics(device(), "bf16"):
        latents = [
            sample_prior(prior, noise.to(device()), guidance, GUIDANCE_INTERVAL)
            for noise in initial_noise(seed, keys, shape).split(BATCH)
        ]
    return decode_latents(prior.vae, torch.cat(latents), device())


if __name__ == "__main__":
    run(main)
