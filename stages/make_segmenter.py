"""Provide a segmenter as models/segmenters/<name>/: import it, or train it on true factors."""

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DModel

from pipeline.artefacts import image_folder, segmenter_folder
from pipeline.inputs import load_images, load_masks
from pipeline.program import device, progress, run
from pipeline.record import Recorder, read_record
from pipeline.settings.load import load_settings, pick
from pipeline.settings.sections import SegmenterSettings
from pipeline.work_folder import content, work_folder
from sacd.files import atomic
from sacd.metrics.segmenter import mask_iou, mask_logits, train_segmenter
from sacd.networks import load_diffusers
from sacd.optimization import Recipe
from sacd.shards import INDEX


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segmenter", required=True)
    name = parser.parse_args().segmenter
    recorder, settings = Recorder("make_segmenter", segmenter=name), load_settings()
    chosen = pick(settings.segmenters, name, "segmenter")
    if chosen.source == "train":
        segmenter, training = _train(chosen, settings.seed, name)
    else:
        source = Path(chosen.source).expanduser()
        segmenter, training = load_diffusers(UNet2DModel, source), read_record(source)["training"]
    folder = segmenter_folder(name)
    with atomic(folder) as temporary:
        segmenter.half().save_pretrained(temporary)
    recorder.write(
        folder / "record.json",
        settings,
        training=training,
        val_iou=_val_iou(segmenter.float()),
    )


def _train(
    chosen: SegmenterSettings, seed: int, name: str
) -> tuple[UNet2DModel, dict[str, object]]:
    assert chosen.training is not None  # the settings' check
    images, masks = _images_and_masks("train")
    segmenter, trained = train_segmenter(
        chosen.width,
        images,
        masks,
        Recipe(**chosen.training.model_dump(), seed=seed),
        work_folder(
            "make_segmenter",
            name,
            seed,
            chosen.model_dump(),
            content(image_folder("train") / INDEX),
        ),
        device(),
        progress(f"segmenter {name}"),
    )
    return segmenter, {"seconds": round(trained.seconds), "history": trained.history[-1:]}


def _images_and_masks(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, _ = load_images(split)
    return images, load_masks(split, images.shape[-1])


@torch.no_grad()
def _val_iou(segmenter: UNet2DModel) -> float:
    images, masks = _images_and_masks("val")
    segmenter = segmenter.to(device())
    overlaps = [
        mask_iou(mask_logits(segmenter, batch.to(device()) / 255).cpu() > 0, truth)
        for batch, truth in zip(images.split(64), masks.split(64), strict=True)
    ]
    return round(float(torch.cat(overlaps).mean()), 4)


if __name__ == "__main__":
    run(main)
