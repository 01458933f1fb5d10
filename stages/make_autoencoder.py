"""Provide the prior's autoencoder as models/autoencoder/: import it, or train it."""

import argparse

from pipeline.artefacts import AUTOENCODER, image_folder
from pipeline.inputs import load_images
from pipeline.networks import obtain_network
from pipeline.program import device, progress, run
from pipeline.record import Recorder, read_record
from pipeline.settings.load import load_settings
from pipeline.settings.sections import Criticised, ImportedAutoencoder, Settings, TrainedAutoencoder
from pipeline.work_folder import content, work_folder
from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError
from sacd.metrics.images import psnr_db
from sacd.optimization import Recipe, evenly_spaced, summary
from sacd.prior.autoencoder import FeatureLoss, refine_decoder, train_autoencoder
from sacd.prior.latents import round_trip
from sacd.prior.prior import Prior
from sacd.prior.source import local_autoencoder, local_folder
from sacd.prior.vae import (
    Autoencoder,
    load_autoencoder,
    save_autoencoder,
    standardise,
    vae_scale_factor,
)
from sacd.shards import INDEX

STANDARDISED = 2048  # images over which an imported autoencoder's latents are, at most


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("make_autoencoder"), load_settings()
    chosen = settings.prior.autoencoder
    if settings.prior.source != "train":
        source = local_folder(settings.prior.source)
        vae = Prior.from_pretrained(source).vae  # all of it must work, before latents are cached
        record = source / "vae" / "record.json"
        training = read_record(record.parent)["training"] if record.exists() else {}
        training = {"imported": settings.prior.source, **training}
    elif isinstance(chosen, ImportedAutoencoder):
        vae = load_autoencoder(local_autoencoder(chosen.source)).to(device())
        training = {"imported": chosen.source}
    else:
        vae, training = _train(settings)
    if settings.images.size % (factor := vae_scale_factor(vae)):
        raise SacdError(
            f"images.size: {settings.images.size} is no multiple of {factor}, by which the "
            f"autoencoder of {training['imported']} shrinks images."
        )
    if isinstance(chosen, ImportedAutoencoder):
        standardise(vae, evenly_spaced(load_images("train")[0], STANDARDISED), device())
    save_autoencoder(vae, AUTOENCODER)
    recorder.write(
        AUTOENCODER / "record.json",
        settings,
        training=training,
        val_psnr_db=_val_psnr_db(vae),
    )


def _train(settings: Settings) -> tuple[Autoencoder, dict[str, object]]:
    chosen, seed = settings.prior.autoencoder, settings.seed
    assert isinstance(chosen, TrainedAutoencoder)  # the settings' check
    images, _ = load_images("train")
    where = "prior.autoencoder"
    determining = (seed, chosen.model_dump(), content(image_folder("train") / INDEX))
    vae, trained = train_autoencoder(
        chosen.options,
        images,
        Recipe(**chosen.training.model_dump(), seed=seed),
        _feature_loss(chosen, seed, where),
        chosen.feature_weight,
        chosen.kl_weight,
        work_folder("make_autoencoder", *determining),
        device(),
        progress(where),
    )
    if chosen.finetune is None:
        return vae, summary([trained])
    where += ".finetune"
    refined = refine_decoder(
        vae,
        images,
        Recipe(**chosen.finetune.training.model_dump(), seed=seed),
        _feature_loss(chosen.finetune, seed, where),
        chosen.finetune.feature_weight,
        work_folder("make_autoencoder", *determining, "finetune"),
        device(),
        progress(where),
    )
    return vae, summary([trained, refined])


def _feature_loss(chosen: Criticised, seed: int, where: str) -> FeatureLoss:
    config, critic, _ = obtain_network(chosen.critic, seed, f"{where}.critic")
    return FeatureLoss(Backbone(config, critic).to(device()), chosen.critic_layers)


def _val_psnr_db(vae: Autoencoder) -> float:
    """Mean PSNR of the round trip on the val split."""
    images, _ = load_images("val")
    vae = vae.to(device())
    ours = round_trip(vae, images, device())
    return round(float(psnr_db(ours.float() / 255, images.float() / 255).mean()), 2)


if __name__ == "__main__":
    run(main)
