"""Operations and bytes that an experiment takes, rule by rule, counted before anything is run.

The real networks run on tensors without content, and PyTorch counts the operations of their matrix
products and convolutions (a multiplication and an addition are two).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.architecture import random_adapter, random_backbone, random_prior
from pipeline.artefacts import SPLITS
from pipeline.settings.methods import (
    AdapterMethod,
    GuidanceMethod,
    MethodSettings,
    NearestMethod,
    PixelMethod,
    changed,
)
from pipeline.settings.sections import Settings
from sacd.adapters.adapter import Adapter
from sacd.errors import SacdError
from sacd.images import shapes
from sacd.images.collection import Collection
from sacd.numerics import numerics
from sacd.prior.prior import Prior, latent_shape
from sacd.prior.vae import decode, encode

HALF = 2  # bytes of a number in fp16
CHECKPOINTED = 16  # bytes a trained weight: itself, its average and AdamW's two moments in fp32


@dataclass
class Row:
    """What one rule takes: operations by kind (see `benchmarks/rates.py`), bytes that it leaves.

    `work_bytes` are needed only while it runs.
    """

    rule: str
    jobs: int
    operations: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    work_bytes: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Operations for one image: through each network, the autoencoder, and an adapter's steps."""

    encode: int
    decode: int
    networks: dict[str, int]
    hints: dict[tuple[str, str], int]
    steps: dict[tuple[str, str], int]
    train_steps: dict[tuple[str, str], int]
    unet: int
    feature_numbers: dict[str, int]
    latent_numbers: int
    adapter_weights: dict[tuple[str, str], int]
    network_weights: int
    unet_weights: int
    vae_weights: int


def operations(call: Callable[[], Any]) -> int:
    """Of one call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure_costs(settings: Settings) -> tuple[Costs, str]:
    """Costs of an experiment, and where the prior's architecture comes from."""
    compare = settings.compare
    # timm reads numbers off tensors when it makes a network, so these are real.
    backbones = {name: random_backbone(settings.backbones[name]) for name in compare.networks}
    with FakeTensorMode(allow_non_fake_inputs=True), numerics(torch.device("cpu"), "fp32"):
        prior, origin = random_prior(settings)
        latents = torch.zeros(1, *latent_shape(prior, settings.images.size))
        image = torch.zeros(1, 3, settings.images.size, settings.images.size)
        networks, numbers = dict[str, int](), dict[str, int]()
        hints, steps, train_steps, weights = (dict[tuple[str, str], int]() for _ in range(4))
        for name, backbone in backbones.items():
            features, _ = backbone(image)
            numbers[name] = features[0].numel()
            networks[name] = operations(lambda b=backbone: b(image))  # type: ignore[misc]
            for kind in compare.adapters if name in compare.backbones else ():
                adapter = random_adapter(
                    settings.adapters[kind], prior, features, latents.shape[-1]
                )
                key = (name, kind)
                weights[key] = _weights(adapter)
                hints[key] = operations(lambda a=adapter, f=features: a.hint(f))  # type: ignore[misc]
                steps[key] = operations(lambda a=adapter, f=features: _step(a, prior, f, latents))  # type: ignore[misc]
                train_steps[key] = operations(
                    lambda a=adapter, f=features: _train_step(a, prior, f, latents)  # type: ignore[misc]
                )
        costs = Costs(
            encode=operations(lambda: encode(prior.vae, image)),
            decode=operations(lambda: decode(prior.vae, latents)),
            networks=networks,
            hints=hints,
            steps={key: total - hints[key] for key, total in steps.items()},
            train_steps=train_steps,
            unet=operations(
                lambda: prior.unet(latents, torch.zeros(1, dtype=torch.long), prior.prompts(1))
            ),
            feature_numbers=numbers,
            latent_numbers=latents[0].numel(),
            adapter_weights=weights,
            network_weights=sum(map(_weights, backbones.values())),
            unet_weights=_weights(prior.unet),
            vae_weights=_weights(prior.vae),
        )
    return costs, origin


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _step(adapter: Adapter, prior: Prior, features: Tensor, latents: Tensor) -> Tensor:
    times = torch.zeros(1, dtype=torch.long)
    return adapter(prior.unet, latents, times, prior.prompts(1), adapter.hint(features))


def _train_step(adapter: Adapter, prior: Prior, features: Tensor, latents: Tensor) -> None:
    adapter.requires_grad_(True)
    F.mse_loss(_step(adapter, prior, features, latents), latents).backward()


def count_images(settings: Settings) -> dict[str, int]:
    """How many images each split has; raises `SacdError` where only the images could tell."""
    chosen = settings.images
    if isinstance(chosen.classes, int):
        classes = chosen.classes
    elif isinstance(chosen.classes, list):
        classes = len(chosen.classes)
    elif chosen.source == "shapes":
        classes = len(shapes.CLASSES)
    elif Path(chosen.source).expanduser().exists():
        entries = Collection(Path(chosen.source).expanduser()).entries
        classes = len({entry.class_name for entry in entries})
    else:
        raise SacdError(
            f"images.classes: 'all' cannot be counted, {chosen.source} is not here: give a number."
        )
    return {split: classes * getattr(chosen.per_class, split) for split in SPLITS}


def plan(settings: Settings, costs: Costs) -> list[Row]:
    """A row for each rule whose work grows with images, steps or samples, as data flow."""
    counts = count_images(settings)
    return [
        *_models_and_caches(settings, costs, counts),
        _adapters(settings, costs),
        *_samples(settings, costs, counts),
    ]


def _models_and_caches(settings: Settings, costs: Costs, counts: dict[str, int]) -> list[Row]:
    networks = len(settings.compare.networks)
    images, tested = sum(counts.values()), counts["test"]
    pixels = 3 * settings.images.size**2
    return [
        Row("prepare_images", 1, bytes=images * pixels),
        Row("make_backbone", networks, bytes=costs.network_weights * HALF),
        Row("make_autoencoder", 1, bytes=costs.vae_weights * HALF),
        Row("make_prior", 1, bytes=(costs.unet_weights + costs.vae_weights) * HALF),
        Row(
            "cache_latents", 1,
            {"autoencoder": images * costs.encode + tested * costs.decode},
            images * costs.latent_numbers * HALF + tested * pixels,
        ),
        Row(
            "cache_features", networks,
            {"network": images * sum(costs.networks.values())},
            images * sum(costs.feature_numbers.values()) * HALF,
        ),
    ]  # fmt: skip


def _adapters(settings: Settings, costs: Costs) -> Row:
    compare = settings.compare
    trained = [(b, a) for b in compare.backbones for a in compare.adapters]
    recipes = {name: settings.adapters[name].training for name in compare.adapters}
    return Row(
        "train_adapter",
        len(trained),
        {
            "training": sum(
                recipes[key[1]].steps * recipes[key[1]].batch * costs.train_steps[key]
                for key in trained
            )
        },
        sum(costs.adapter_weights[key] for key in trained) * HALF,
        sum(costs.adapter_weights[key] for key in trained) * CHECKPOINTED,
    )


def _samples(settings: Settings, costs: Costs, counts: dict[str, int]) -> list[Row]:
    compare, tested = settings.compare, counts["test"]
    drawn, scored, swept = (dict[str, float]() for _ in range(3))
    samples = 0
    for backbone in compare.backbones:
        seen = costs.networks[backbone] + costs.networks[compare.judge]
        for name in compare.methods:
            method = settings.methods[name]
            add(drawn, _draw(method, backbone, costs, counts), tested)
            kept = getattr(method, "samples", 1)
            samples += tested * kept
            add(scored, {"network": seen * kept}, tested)
        for name in compare.sweeps:
            sweep = settings.sweeps[name]
            for changes in sweep.combinations():
                method = changed(settings.methods[sweep.method], changes)
                add(swept, _draw(method, backbone, costs, counts), sweep.images)
                add(swept, {"network": seen * getattr(method, "samples", 1)}, sweep.images)
    cells = len(compare.backbones) * len(compare.methods)
    rows = [
        Row("draw_samples", cells, drawn, samples * 3 * settings.images.size**2),
        Row("score_samples", cells, scored),
    ]
    return [*rows, Row("sweep_method", len(compare.sweeps), swept)] if compare.sweeps else rows


def _draw(
    method: MethodSettings, backbone: str, costs: Costs, counts: dict[str, int]
) -> dict[str, float]:
    """Operations to draw for one image. A gradient to an image costs as much as the way forward."""
    seen = costs.networks[backbone]
    match method:
        case AdapterMethod():
            key = (backbone, method.adapter)
            more = (method.guidance != 1) + (method.energy_guidance != 0)
            low, high = method.guidance_interval
            passes = method.steps * (1 + more * (high - low))
            drawn = method.samples * method.best_of
            refined = 2 * method.refinement.steps if method.refinement else 0
            return {
                "sampling": drawn * (costs.hints[key] + passes * costs.steps[key]),
                "autoencoder": drawn * (1 + refined) * costs.decode,
                "network": drawn * (refined + (method.best_of > 1)) * seen,
            }
        case GuidanceMethod():
            passes = 2 * method.samples * method.steps * method.recurrences
            return {
                "sampling": passes * costs.unet,
                "autoencoder": passes * costs.decode,
                "network": passes * seen,
            }
        case PixelMethod():
            return {"network": 2 * method.samples * method.restarts * method.steps * seen}
        case NearestMethod():
            return {"network": 2 * counts["train"] * costs.feature_numbers[backbone]}
        case _:  # a feed-forward decoder, about the prior's
            return {"autoencoder": costs.decode}


def add(total: dict[str, float], part: dict[str, float], times: int = 1) -> None:
    """Add operations by kind, so many times, to a total."""
    for kind, number in part.items():
        total[kind] = total.get(kind, 0.0) + times * number
