"""Provide a backbone as models/backbones/<name>/: import it, or train it on the train split."""

import argparse

import torch

from pipeline.artefacts import backbone_folder
from pipeline.inputs import load_images
from pipeline.networks import obtain_network
from pipeline.program import device, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from sacd.backbones.backbone import (
    Backbone,
    save_backbone,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    name = parser.parse_args().backbone
    recorder, settings = Recorder("make_backbone", backbone=name), load_settings()
    chosen = pick(settings.backbones, name, "backbone")
    config, network, training = obtain_network(chosen, settings.seed, f"backbones.{name}")

    backbone = Backbone(config, network.float().cpu())
    features, _ = backbone(torch.zeros(2, 3, settings.images.size, settings.images.size))
    folder = backbone_folder(name)
    save_backbone(folder, config, network)
    recorder.write(
        folder / "record.json",
        settings,
        parameters_in_network=sum(p.numel() for p in network.parameters()),
        feature_shape=list(features.shape[1:]),
        training=training,
        val_top1=_accuracy(backbone),
    )


@torch.no_grad()
def _accuracy(backbone: Backbone) -> float | None:
    """Top-1 on the val split, where the head's classes are the images' classes."""
    images, labels = load_images("val")
    if not backbone.has_head or backbone.network.num_classes != int(labels.max()) + 1:
        return None
    backbone.to(device())
    hits = [
        backbone(batch.to(device()).float() / 255)[1].argmax(1).cpu() == truth
        for batch, truth in zip(images.split(64), labels.split(64), strict=True)
    ]
    return round(float(torch.cat(hits).float().mean()), 4)


if __name__ == "__main__":
    run(main)
