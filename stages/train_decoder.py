"""Train a feed-forward decoder on features and images: decoders/<backbone>/<decoder>/."""

import argparse

import torch

from sacd.backbones.backbone import WEIGHTS
from sacd.baselines.decoder import DecoderConfig, FeatureDecoder, train_decoder
from sacd.files import write_json
from sacd.optimization import Recipe
from sacd.shards import INDEX, Shards
from stages.artefacts import backbone_folder, decoder_folder, feature_folder, image_folder
from stages.common import Clock, content, device, progress, run, work_folder
from stages.inputs import load_backbone, whitening_of
from stages.settings import load_settings, pick


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--decoder", required=True)
    arguments = parser.parse_args()
    backbone, name = arguments.backbone, arguments.decoder
    clock, settings = Clock(), load_settings()
    chosen = pick(settings.decoders, name, "decoder")
    features, images = Shards(feature_folder(backbone, "train")), Shards(image_folder("train"))
    features.require_ids(images.ids, str(images.folder))
    side = settings.images.size // 2 ** (len(chosen.widths) - 1)
    torch.manual_seed(settings.seed)
    decoder = FeatureDecoder(
        DecoderConfig(
            backbone=backbone,
            layer=features.info["layer"],
            feature_shape=features.shape("features"),  # type: ignore[arg-type]
            grid=(side, side),
            widths=tuple(chosen.widths),
        ),
        whitening_of(features, pooled=False),
    ).to(device())
    trained = train_decoder(
        decoder,
        load_backbone(backbone),
        len(images),
        lambda rows: features.read("features", rows),
        lambda rows: images.read("images", rows),
        chosen.feature_weight,
        Recipe(**chosen.training.model_dump(), seed=settings.seed),
        work_folder(
            "train_decoder",
            backbone,
            name,
            settings.seed,
            chosen.model_dump(),
            content(features.folder / INDEX),
            content(images.folder / INDEX),
            content(backbone_folder(backbone) / WEIGHTS),
        ),
        device(),
        progress(f"decoder {backbone} {name}"),
    )
    folder = decoder_folder(backbone, name)
    decoder.save(folder)
    write_json(folder / "training.json", {"history": trained.history})
    clock.finish(
        folder / "record.json",
        {"seed": settings.seed, "decoder": chosen.model_dump()},
        training_seconds=round(trained.seconds, 1),
    )


if __name__ == "__main__":
    run(main)
