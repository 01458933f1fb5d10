"""Train an adapter on cached latents and features: adapters/<backbone>/<adapter>/."""

import argparse
import sys

import torch

from pipeline.artefacts import (
    PRIOR,
    PRIOR_FILES,
    adapter_folder,
    backbone_folder,
    feature_folder,
    latent_folder,
)
from pipeline.inputs import others_of, stratified_rows, whitening_of
from pipeline.program import compiling, device, progress, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.settings.sections import AdapterSettings
from pipeline.work_folder import content, work_folder
from sacd import parallel
from sacd.adapters.adapter import Adapter, AdapterConfig, compile_steps
from sacd.adapters.registry import create_adapter
from sacd.backbones.backbone import WEIGHTS
from sacd.files import write_json
from sacd.optimization import Recipe, Trained
from sacd.prior.prior import Prior
from sacd.shards import INDEX, Shards
from sacd.training.adapter import Pairs, train_adapter, uses_condition

HELD_OUT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--adapter", required=True)
    arguments = parser.parse_args()
    backbone, name = arguments.backbone, arguments.adapter
    recorder, settings = Recorder("train_adapter", backbone=backbone, adapter=name), load_settings()
    chosen = pick(settings.adapters, name, "adapter")
    adapter, trained = _train(chosen, backbone, name, settings.seed)
    if not parallel.first():  # the first process writes what all have trained
        return
    folder = adapter_folder(backbone, name)
    adapter.save(folder)
    used = uses_condition(trained.history)
    write_json(folder / "training.json", {"uses_condition": used, "history": trained.history})
    recorder.write(
        folder / "record.json",
        settings,
        made_of=[*PRIOR_FILES, backbone_folder(backbone) / WEIGHTS],
        parameters_in_adapter=sum(p.numel() for p in adapter.parameters()),
        training_seconds=round(trained.seconds, 1),
    )
    last = trained.history[-1]
    verdict = "is used" if used else "IS NOT USED: train longer or look at the features"
    print(
        f"adapter {backbone}/{name}: the condition {verdict} (held-out loss: true feature "
        f"{last['loss_true']:.4f}, shuffled {last['loss_shuffled']:.4f}, "
        f"null {last['loss_null']:.4f})",
        file=sys.stderr,
    )


def _train(chosen: AdapterSettings, backbone: str, name: str, seed: int) -> tuple[Adapter, Trained]:
    latents, features = _open(backbone, "train")
    held_latents, held_features = _open(backbone, "val")
    held_rows = stratified_rows(held_latents, HELD_OUT)
    true = held_features.read("features", held_rows)
    others = others_of("val", [held_latents.ids[row] for row in held_rows])
    prior = Prior.from_pretrained(PRIOR).to(device())
    torch.manual_seed(seed)
    adapter = create_adapter(
        AdapterConfig(
            type=chosen.type,
            conditioning=chosen.conditioning,
            backbone=backbone,
            layer=features.info["layer"],
            feature_shape=features.shape("features"),  # type: ignore[arg-type]
            grid=latents.shape("latents")[1:],  # type: ignore[arg-type]
            hidden=chosen.hidden,
        ),
        whitening_of(features, pooled=chosen.conditioning == "pooled"),
        prior.unet,
    ).to(device())
    if compiling():
        compile_steps(prior.unet, adapter)
    trained = train_adapter(
        adapter,
        prior,
        Pairs(
            len(latents),
            lambda rows: latents.read("latents", rows),
            lambda rows: features.read("features", rows),
        ),
        (held_latents.read("latents", held_rows), true, true[others]),
        Recipe(**chosen.training.model_dump(), seed=seed),
        chosen.condition_dropout,
        work_folder(
            "train_adapter",
            backbone,
            name,
            seed,
            chosen.model_dump(),
            *(content(s.folder / INDEX) for s in (features, latents, held_features, held_latents)),
            *map(content, PRIOR_FILES),
        ),
        device(),
        progress(f"adapter {backbone} {name}"),
    )
    return adapter, trained


def _open(backbone: str, split: str) -> tuple[Shards, Shards]:
    """Latents and features of a split, checked to be in the same order."""
    latents, features = Shards(latent_folder(split)), Shards(feature_folder(backbone, split))
    features.require_ids(latents.ids, str(latents.folder))
    return latents, features


if __name__ == "__main__":
    run(main)
