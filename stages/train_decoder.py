"""Train a feed-forward decoder on features and images: decoders/<backbone>/<decoder>/."""

import argparse

import torch

from pipeline.artefacts import backbone_folder, decoder_folder, feature_folder, image_folder
from pipeline.inputs import load_backbone, whitening_of
from pipeline.program import device, progress, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.work_folder import content, work_folder
from sacd.backbones.backbone import WEIGHTS
from sacd.baselines.decoder import DecoderConfig, FeatureDecoder, train_decoder
from sacd.files import write_json
from sacd.optimization import Recipe
from sacd.shards import INDEX, Shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--decoder", required=True)
    arguments = parser.parse_args()
    backbone, name = arguments.backbone, arguments.decoder
    recorder, settings = Recorder("train_decoder", backbone=backbone, decoder=name), load_settings()
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
    recorder.write(
        folder / "record.json",
        settings,
        made_of=[backbone_folder(backbone) / WEIGHTS],
        training_seconds=round(trained.seconds, 1),
    )


if __name__ == "__main__":
    run(main)
