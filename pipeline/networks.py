"""Networks that sections of params.yaml describe: imported, or trained on the train split."""

import sys
from pathlib import Path

import torch

from pipeline.artefacts import image_folder
from pipeline.inputs import load_images, load_masks
from pipeline.program import device, progress
from pipeline.record import read_record
from pipeline.settings.sections import BackboneSettings
from pipeline.work_folder import content, work_folder
from sacd.backbones.backbone import (
    FINAL,
    WEIGHTS,
    BackboneConfig,
    create_network,
    load_network,
)
from sacd.backbones.training import Augmentation, train_backbone
from sacd.errors import SacdError
from sacd.optimization import Recipe, summary
from sacd.shards import INDEX


def backbone_config(chosen: BackboneSettings) -> BackboneConfig:
    """The configuration that a section of params.yaml describes."""
    return BackboneConfig(
        model=chosen.model,
        options=chosen.options,
        input_size=chosen.input_size,
        mean=tuple(chosen.mean),  # type: ignore[arg-type]
        std=tuple(chosen.std),  # type: ignore[arg-type]
        layer=chosen.layer,
    )


def obtain_network(
    chosen: BackboneSettings, seed: int, where: str
) -> tuple[BackboneConfig, torch.nn.Module, dict[str, object]]:
    """Import or train the network of a section of params.yaml (`where`); also says how."""
    config = backbone_config(chosen)
    if chosen.source != "train":
        network, origin = _import(config, chosen.source, where)
        if "history" not in origin:  # not trained by this rule
            _warn_of_preprocessing(config, network, where)
        return config, network, origin
    if config.layer != FINAL:
        raise SacdError(f"{where}.layer: train with '{FINAL}', tap a layer on import.")
    return config, *_train(config, chosen, seed, where)


def _train(
    config: BackboneConfig, chosen: BackboneSettings, seed: int, where: str
) -> tuple[torch.nn.Module, dict[str, object]]:
    """Train, and refine if asked, on the train split; the network, and how it was trained."""
    images, labels = load_images("train")
    classes = int(labels.max()) + 1
    if chosen.options.get("num_classes") != classes:
        raise SacdError(f"{where}.options.num_classes: must be {classes}, the images' classes.")
    torch.manual_seed(seed)
    network = create_network(config)
    identity = (seed, chosen.model_dump(), content(image_folder("train") / INDEX))
    recipes = [recipe for recipe in (chosen.training, chosen.finetune) if recipe]
    masks = load_masks("train", images.shape[-1]) if any(r.dense for r in recipes) else None
    trained = []
    for part, training in ((where, chosen.training), (f"{where}.finetune", chosen.finetune)):
        if training is None:
            continue
        options = training.model_dump()
        augmentation, dense = Augmentation(**options.pop("augmentation")), options.pop("dense")
        trained.append(
            train_backbone(
                config,
                network,
                images,
                labels,
                masks if dense else None,
                Recipe(**options, seed=seed),
                augmentation,
                work_folder("make_backbone", part, *identity),
                device(),
                progress(part),
            )
        )
    return network, summary(trained)


def _import(
    config: BackboneConfig, source: str, where: str
) -> tuple[torch.nn.Module, dict[str, object]]:
    """Weights from timm's hub, a safetensors file or a folder of this rule, with its record."""
    if source == "timm":
        return create_network(config, pretrained=True), {"imported": f"timm:{config.model}"}
    path = Path(source).expanduser()
    if not path.exists():
        raise SacdError(
            f"{where}.source: '{source}' does not exist; give 'train', 'timm', a .safetensors file "
            f"or a folder that this rule made."
        )
    network = load_network(config, path / WEIGHTS if path.is_dir() else path)
    if not network.num_classes and config.options.get("num_classes") != 0:
        print(
            f"warning: {where}: the backbone has no head, for that of {path} is not for as many "
            f"classes as options.num_classes says, or {config.model} has.",
            file=sys.stderr,
        )
    original = read_record(path)["training"] if path.is_dir() else {}
    return network, {"imported": source, **original}


def _warn_of_preprocessing(config: BackboneConfig, network: torch.nn.Module, where: str) -> None:
    """One line where images would come to the network otherwise than timm prepares them."""
    theirs: dict[str, object] = network.pretrained_cfg  # type: ignore[assignment]
    ours = {"mean": config.mean, "std": config.std, "interpolation": "bicubic"}
    differing = [
        f"{key} {ours[key]} (timm: {theirs[key]})"
        for key in ours
        if theirs.get(key) and theirs[key] != ours[key]
    ]
    if differing:
        print(
            f"warning: {where}: images are not prepared as timm's configuration of "
            f"{config.model} says: {', '.join(differing)}.",
            file=sys.stderr,
        )
