"""Provide the whole prior as models/prior/ (diffusers layout): import it, or train its U-Net."""

import argparse

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from pipeline.artefacts import AUTOENCODER, PRIOR, VAE_WEIGHTS, latent_folder
from pipeline.inputs import load_images
from pipeline.program import device, progress, run
from pipeline.record import Recorder, read_record
from pipeline.settings.load import load_settings
from pipeline.settings.sections import DiffusionSettings, FlowSettings, Settings
from pipeline.work_folder import content, work_folder
from sacd import parallel
from sacd.optimization import Recipe, Trained, summary
from sacd.prior.diffusion import (
    create_null_prompt,
    create_scheduler,
    create_unet,
    train_unet,
)
from sacd.prior.latents import encode_images
from sacd.prior.prior import Prior
from sacd.prior.process import flow_scheduler
from sacd.prior.source import local_folder
from sacd.prior.vae import Autoencoder, load_autoencoder
from sacd.shards import INDEX, Shards


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("make_prior"), load_settings()
    if settings.prior.source == "train":
        prior, training = _train(settings)
    else:
        source = local_folder(settings.prior.source)
        prior = Prior.from_pretrained(source)
        record = source / "record.json"
        training = read_record(source)["training"] if record.exists() else {}
        training = {"imported": settings.prior.source, **training}
    if not parallel.first():  # the first process writes what all have trained
        return
    prior.save(PRIOR)
    recorder.write(
        PRIOR / "record.json",
        settings,
        parameters_in_unet=sum(p.numel() for p in prior.unet.parameters()),
        training=training,
    )


def _train(settings: Settings) -> tuple[Prior, dict[str, object]]:
    chosen, seed = settings.prior.unet, settings.seed
    assert chosen is not None  # the settings' check
    vae = load_autoencoder(AUTOENCODER)
    latents = _latents_and_mirrored(vae)
    torch.manual_seed(seed)
    unet, prompt = create_unet(chosen.options, latents.shape[1:]), create_null_prompt()
    prior = Prior(unet, vae, _scheduler(chosen.process), prompt)
    identity = (
        chosen.model_dump(),
        content(latent_folder("train") / INDEX),
        content(AUTOENCODER / VAE_WEIGHTS),
    )
    trained: list[Trained] = []
    where = "prior.unet"
    for part, recipe in ((where, chosen.training), (f"{where}.finetune", chosen.finetune)):
        if recipe is None:
            continue
        trained.append(
            train_unet(
                unet,
                prior.scheduler,
                prompt,
                latents,
                # Another seed for each: the same would draw the same images, noise and times again.
                Recipe(**recipe.model_dump(), seed=seed + len(trained)),
                work_folder("make_prior", part, seed, *identity),
                device(),
                progress(part),
            )
        )
    return prior, summary(trained)


def _scheduler(process: DiffusionSettings | FlowSettings) -> SchedulerMixin:
    """diffusers' description of the process."""
    if isinstance(process, FlowSettings):
        return flow_scheduler(process.shift)
    return create_scheduler(process.noise_shift)


def _latents_and_mirrored(vae: Autoencoder) -> Tensor:
    """Latents of the train split's images, and of their mirror images: twice as many scenes."""
    images, _ = load_images("train")
    mirrored = encode_images(vae.to(device()), images.flip(-1), device())
    return torch.cat([Shards(latent_folder("train")).read_all("latents"), mirrored])


if __name__ == "__main__":
    run(main)
