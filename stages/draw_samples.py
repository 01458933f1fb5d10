"""Draw K samples of every test image by a method: samples/<backbone>/<method>/."""

import argparse

import torch
from torch import Tensor

from sacd.adapters.controlnet import load_adapter
from sacd.prior.prior import Prior
from sacd.sampling.inverter import Inverter
from sacd.sampling.noise import noise_seed
from sacd.shards import INDEX, Shards, write_shards
from stages.artefacts import (
    PRIOR,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    adapter_folder,
    feature_folder,
    sample_folder,
)
from stages.common import Clock, content, device, progress, run, work_folder
from stages.settings import load_settings, pick

IMAGES_PER_SHARD = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    clock, settings = Clock(), load_settings()
    method = pick(settings.methods, arguments.method, "method")
    trained = adapter_folder(arguments.backbone, method.adapter)
    features = Shards(feature_folder(arguments.backbone, "test"))
    prior = Prior.from_pretrained(PRIOR).to(device())
    adapter = load_adapter(trained, prior.unet).to(device())
    inverter = Inverter(prior, adapter, None, device())

    def draw(start: int, stop: int) -> dict[str, Tensor]:
        keys = [(name, k) for name in features.ids[start:stop] for k in range(method.samples)]
        condition = None
        if method.features == "true":
            maps = features.read("features", range(start, stop))
            condition = maps.repeat_interleave(method.samples, 0)
        images = inverter.sample(
            condition, keys, settings.seed, method.steps, method.guidance, method.guided_below
        )
        return {
            "images": images.unflatten(0, (-1, method.samples)),
            "sample_index": torch.arange(method.samples).repeat(stop - start, 1),
            "noise_seed": torch.tensor([noise_seed(settings.seed, *key) for key in keys]).unflatten(
                0, (-1, method.samples)
            ),
        }

    folder = sample_folder(arguments.backbone, arguments.method)
    sections = {"seed": settings.seed, "method": method.model_dump()}
    work = work_folder(
        "draw_samples",
        arguments.method,
        sections,
        content(features.folder / INDEX),
        content(trained / "adapter.safetensors"),
        content(PRIOR / UNET_WEIGHTS),
        content(PRIOR / "vae" / VAE_WEIGHTS),
    )
    write_shards(
        folder, work, features.ids, IMAGES_PER_SHARD, draw, sections,
        progress(f"samples {arguments.backbone} {arguments.method}"),
    )  # fmt: skip
    clock.finish(folder / "record.json", sections)


if __name__ == "__main__":
    run(main)
