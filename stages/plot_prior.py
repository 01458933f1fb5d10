"""Draw what the prior dreams by itself beside real images: results/figures/prior_samples.png."""

import argparse

import torch

from sacd.figures.mosaic import plot_mosaics
from sacd.figures.style import save_figure
from sacd.numerics import numerics
from sacd.prior.prior import Prior, decode, to_uint8
from sacd.sampling.noise import initial_noise
from sacd.sampling.sampler import sample_prior
from sacd.shards import Shards
from stages.artefacts import FIGURES, PRIOR, image_folder, latent_folder
from stages.common import Clock, device, run
from stages.settings import load_settings

IMAGES = 32
COLUMNS = 8
STEPS = 100


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    clock, settings = Clock(), load_settings()
    prior = Prior.from_pretrained(PRIOR).to(device())
    shape = Shards(latent_folder("test")).shape("latents")
    noise = initial_noise(settings.seed, [("prior", k) for k in range(IMAGES)], shape)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad(), numerics(device(), "bf16"):
        latents = sample_prior(prior, noise.to(device()), STEPS, generator)
        dreamt = to_uint8(decode(prior.vae, latents)).cpu()
    test = Shards(image_folder("test"))
    real = test.read("images", range(min(IMAGES, len(test))))
    figure = plot_mosaics(
        {"images of this experiment": real, "drawn by the prior": dreamt}, COLUMNS
    )
    save_figure(figure, FIGURES / "prior_samples")
    clock.finish(FIGURES / "prior_samples.record.json", {"seed": settings.seed})


if __name__ == "__main__":
    run(main)
