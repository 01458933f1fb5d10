"""From a method's section in params.yaml to a function that draws images from features."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pipeline.artefacts import (
    PRIOR,
    PRIOR_FILES,
    adapter_folder,
    backbone_folder,
    decoder_folder,
    feature_folder,
    image_folder,
)
from pipeline.inputs import load_backbone
from pipeline.program import compiling, device, progress
from pipeline.settings.methods import (
    AdapterMethod,
    DecoderMethod,
    GuidanceMethod,
    MethodSettings,
    NearestMethod,
    PixelMethod,
    with_samples,
)
from pipeline.settings.sections import Settings
from pipeline.work_folder import content, work_folder
from sacd.adapters.adapter import compile_steps
from sacd.adapters.registry import load_adapter
from sacd.backbones.backbone import WEIGHTS
from sacd.baselines.decoder import FeatureDecoder
from sacd.baselines.guidance import FeatureGuidance, guided_latents
from sacd.baselines.nearest import nearest_rows
from sacd.baselines.pixels import PixelSearch, optimise_pixels
from sacd.features.distance import relative_distance
from sacd.numerics import numerics
from sacd.prefetch import prefetched
from sacd.prior.latents import decode_latents
from sacd.prior.prior import Prior, latent_shape
from sacd.prior.vae import to_uint8
from sacd.provenance import require_made_of
from sacd.sampling.inverter import Inverter
from sacd.sampling.noise import initial_noise, noise_seed
from sacd.sampling.refinement import Refinement
from sacd.sampling.selection import best_of
from sacd.shards import INDEX, Arrays, Made, Shards, finished
from sacd.tensors import reading, write_tensors

ROWS = 256  # of the training set that are compared at once

# (image ids, features (N, C, h, w)) -> arrays, or what finishes them while the next are drawn:
# "images" uint8 (N, K, 3, S, S) and, where there is noise, "noise_seed" (N, K).
Draw = Callable[[Sequence[str], Tensor], Made]
# (image ids, features, a label for the progress bar) -> the images alone.
DrawOnce = Callable[[Sequence[str], Tensor, str], Tensor]

IMAGES_PER_BATCH = 16


def prepare(settings: Settings, backbone: str, method: MethodSettings) -> tuple[Draw, list[Path]]:
    """A method's `Draw` for a backbone, and the files that, beside the features, decide it."""
    match method:
        case AdapterMethod():
            return _by_adapter(method, backbone, settings.seed)
        case NearestMethod():
            return _by_retrieval(method, backbone)
        case PixelMethod():
            return _by_pixels(method, backbone, settings)
        case DecoderMethod():
            return _by_decoder(method, backbone)
        case GuidanceMethod():
            return _by_guidance(method, backbone, settings)


def draw_all(draw: Draw, ids: Sequence[str], features: Tensor, label: str) -> Tensor:
    """Images uint8 (N, K, 3, S, S) from features (N, C, h, w), in batches under a progress bar."""
    starts = range(0, len(ids), IMAGES_PER_BATCH)

    def begin(start: int) -> Callable[[], Arrays]:
        block = slice(start, start + IMAGES_PER_BATCH)
        return partial(finished, draw(ids[block], features[block]))

    bar = progress(label)(iter(starts), len(starts))
    drawn = zip(bar, prefetched(map(begin, starts)), strict=True)
    return torch.cat([arrays["images"] for _, arrays in drawn])


def prepare_once(
    settings: Settings, backbone: str, methods: Sequence[str], samples: int, stage: str, what: str
) -> dict[str, DrawOnce]:
    """Each method's `draw_all`, with as many samples, that an interrupted `stage` does not repeat.

    What was drawn is kept in a work folder of the stage and of `what` it makes, under the ids and
    features that it was drawn from.
    """
    chosen = {name: with_samples(settings.methods[name], samples) for name in methods}
    return {
        name: _prepare_once(settings, backbone, method, stage, what)
        for name, method in chosen.items()
    }


def _prepare_once(
    settings: Settings, backbone: str, method: MethodSettings, stage: str, what: str
) -> DrawOnce:
    draw, files = prepare(settings, backbone, method)
    work = work_folder(
        stage, what, backbone, settings.seed, settings.images.size, method.model_dump(),
        *map(content, files),
    )  # fmt: skip

    def draw_once(ids: Sequence[str], features: Tensor, label: str) -> Tensor:
        given = hashlib.sha256(json.dumps(list(ids)).encode())
        given.update(features.contiguous().numpy().tobytes())
        path = work / f"{given.hexdigest()[:16]}.safetensors"
        if not path.exists():
            write_tensors(path, {"images": draw_all(draw, ids, features, label).contiguous()})
        with reading(path, "drawn images") as file:
            return file["images"]

    return draw_once


def _by_adapter(method: AdapterMethod, backbone: str, seed: int) -> tuple[Draw, list[Path]]:
    trained = adapter_folder(backbone, method.adapter)
    require_made_of(trained, Path())
    prior = Prior.from_pretrained(PRIOR).to(device())
    adapter = load_adapter(trained, prior.unet).to(device())
    if compiling():
        compile_steps(prior.unet, adapter)
    looks = method.refinement is not None or method.best_of > 1
    inverter = Inverter(prior, adapter, load_backbone(backbone) if looks else None, device())
    chosen = method.refinement
    refinement = Refinement(chosen.steps, chosen.rate) if chosen else None

    def draw(ids: Sequence[str], features: Tensor) -> Made:
        drawn = method.samples * method.best_of
        keys = _keys(ids, drawn)
        repeated = features.repeat_interleave(drawn, 0)
        latents = inverter.draw_latents(
            repeated if method.features == "true" else None,
            keys,
            seed,
            refinement=refinement,
            **method.drawing,
        )
        seeds = _seeds(seed, keys, drawn)

        def decode() -> Tensor:
            return inverter.decode(latents).unflatten(0, (-1, drawn))

        if method.best_of == 1:
            return _behind(lambda: {"images": decode(), "noise_seed": seeds})
        images = decode()
        seen = inverter.features(images.flatten(0, 1)).cpu()
        distances = relative_distance(seen, repeated).unflatten(0, (-1, drawn))
        kept = best_of(distances, method.samples)
        return {"images": _take(images, kept), "noise_seed": seeds.gather(1, kept)}

    files = [trained / "adapter.safetensors", *PRIOR_FILES]
    return draw, [*files, _weights(backbone)] if looks else files


def _by_retrieval(method: NearestMethod, backbone: str) -> tuple[Draw, list[Path]]:
    features, images = Shards(feature_folder(backbone, "train")), Shards(image_folder("train"))
    features.require_ids(images.ids, str(images.folder))
    blocks = [range(start, min(start + ROWS, len(images))) for start in range(0, len(images), ROWS)]

    def draw(ids: Sequence[str], maps: Tensor) -> Made:
        trained = (features.read("features", block).to(device()) for block in blocks)
        rows = nearest_rows(maps.to(device()), trained, method.samples).cpu()
        found = images.read("images", rows.flatten().tolist())
        return {"images": found.unflatten(0, rows.shape)}

    return draw, [features.folder / INDEX, images.folder / INDEX]


def _by_pixels(method: PixelMethod, backbone: str, settings: Settings) -> tuple[Draw, list[Path]]:
    network = load_backbone(backbone)
    search = PixelSearch(method.steps, method.learning_rate, method.variation, method.norm)
    shape = (3, settings.images.size, settings.images.size)

    def draw(ids: Sequence[str], features: Tensor) -> Made:
        tried = method.samples * method.restarts
        keys = _keys(ids, tried)
        noise = initial_noise(settings.seed, keys, shape).to(device())
        targets = features.repeat_interleave(tried, 0).to(device())
        found, losses = optimise_pixels(network, targets, noise, search)
        kept = best_of(losses.cpu().unflatten(0, (-1, tried)), method.samples)
        images = to_uint8(found).cpu().unflatten(0, (-1, tried))
        seeds = _seeds(settings.seed, keys, tried)
        return {"images": _take(images, kept), "noise_seed": seeds.gather(1, kept)}

    return draw, [_weights(backbone)]


def _by_decoder(method: DecoderMethod, backbone: str) -> tuple[Draw, list[Path]]:
    folder = decoder_folder(backbone, method.decoder)
    require_made_of(folder, Path())
    decoder = FeatureDecoder.from_pretrained(folder).to(device())

    def draw(ids: Sequence[str], features: Tensor) -> Made:
        with torch.no_grad(), numerics(device(), "bf16"):
            return {"images": to_uint8(decoder(features.to(device())))[:, None].cpu()}

    return draw, [folder / "decoder.safetensors"]


def _by_guidance(
    method: GuidanceMethod, backbone: str, settings: Settings
) -> tuple[Draw, list[Path]]:
    network, prior = load_backbone(backbone), Prior.from_pretrained(PRIOR).to(device())
    guidance = FeatureGuidance(method.steps, method.strength, method.recurrences)
    seed, shape = settings.seed, latent_shape(prior, settings.images.size)

    def draw(ids: Sequence[str], features: Tensor) -> Made:
        keys = _keys(ids, method.samples)
        noise = initial_noise(seed, keys, shape).to(device())

        def fresh(travel: int) -> Tensor:
            travelled = [(f"{name}, travel {travel}", sample) for name, sample in keys]
            return initial_noise(seed, travelled, shape).to(device())

        targets = features.repeat_interleave(method.samples, 0).to(device())
        with numerics(device(), "bf16"):
            latents = guided_latents(prior, network, targets, noise, fresh, guidance)

        def decode() -> Arrays:
            with numerics(device(), "bf16"):
                images = decode_latents(prior.vae, latents, device())
            return {
                "images": images.unflatten(0, (-1, method.samples)),
                "noise_seed": _seeds(seed, keys, method.samples),
            }

        return _behind(decode)

    return draw, [*PRIOR_FILES, _weights(backbone)]


def _behind(decode: Callable[[], Arrays]) -> Made:
    """Where a GPU draws, the program goes on to the next images while these are decoded.

    On a CPU they are decoded right away: its cores are busy (`benchmarks/critical_path.py`), and
    there `numerics` chooses an attention kernel for all threads at once.
    """
    return decode if device().type == "cuda" else decode()


def _keys(ids: Sequence[str], samples: int) -> list[tuple[str, int]]:
    return [(name, k) for name in ids for k in range(samples)]


def _seeds(seed: int, keys: list[tuple[str, int]], samples: int) -> Tensor:
    """The seed of every sample's noise, (N, K)."""
    return torch.tensor([noise_seed(seed, *key) for key in keys]).unflatten(0, (-1, samples))


def _take(images: Tensor, kept: Tensor) -> Tensor:
    """Images (N, M, ...) at indices (N, K) -> (N, K, ...)."""
    return images[torch.arange(len(images))[:, None], kept]


def _weights(backbone: str) -> Path:
    return backbone_folder(backbone) / WEIGHTS
