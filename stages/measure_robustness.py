"""Reconstruct from disturbed inputs: robustness/<backbone>/<disturbance>/.

scores.parquet has a row for each (level, method, image). Does a reconstruction show what the
features say (columns `*_of_features`), what the image was (`*_of_image`), or what an attack aimed
at (`*_of_target`)? For comparison there stand among the methods the image itself (`original`), as
disturbed (`input`), that through the prior's autoencoder (`autoencoder`, a ceiling), and the first
method's samples for another image (`shuffled`, a floor). examples.safetensors holds one image's
pictures, uint8 (levels, 3, S, S) for each.
"""

import argparse

import pandas as pd
from torch import Tensor

from pipeline.artefacts import INPUT, PRIOR, robustness_folder
from pipeline.disturbances import Level, levels_of
from pipeline.examples import write_drawn
from pipeline.eyes import Seen, see
from pipeline.inputs import load_backbone, others_of
from pipeline.methods import DrawOnce, prepare_once
from pipeline.program import device, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from sacd.metrics.features import class_scores, feature_scores
from sacd.prior.latents import round_trip
from sacd.prior.prior import Prior
from sacd.prior.vae import Autoencoder

ORIGINAL, AUTOENCODER, SHUFFLED = "original", "autoencoder", "shuffled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--disturbance", required=True)
    arguments = parser.parse_args()
    name, disturbance = arguments.backbone, arguments.disturbance
    recorder, settings = (
        Recorder("measure_robustness", backbone=name, disturbance=disturbance),
        load_settings(),
    )
    chosen = pick(settings.disturbances, disturbance, "disturbance")
    backbone, judge = load_backbone(name), load_backbone(settings.compare.judge)
    vae = Prior.from_pretrained(PRIOR).vae.to(device())
    draws = prepare_once(settings, name, chosen.methods, 1, "measure_robustness", disturbance)
    tables: list[pd.DataFrame] = []
    examples: dict[str, list[Tensor]] = {}
    for level in levels_of(settings, disturbance, chosen, backbone, name):
        drawn = _draw_and_compare(level, draws, vae, f"{name} {disturbance}")
        seen = {m: [see(eye, images) for eye in (backbone, judge)] for m, images in drawn.items()}
        for method, images in drawn.items():
            tables.append(_scores(level, method, seen[method], seen[ORIGINAL]))
            if method != SHUFFLED:
                examples.setdefault(method, []).append(images[len(images) // 2])
    folder = robustness_folder(name, disturbance)
    write_drawn(folder, tables, examples)
    recorder.write(
        folder / "record.json",
        settings,
    )


def _draw_and_compare(
    level: Level, draws: dict[str, DrawOnce], vae: Autoencoder, label: str
) -> dict[str, Tensor]:
    """Images uint8 (N, 3, S, S) of each method, between those they are compared with."""
    drawn = {
        method: draw(level.ids, level.features, f"{label} {level.name} {method}")[:, 0]
        for method, draw in draws.items()
    }
    shuffled = drawn[next(iter(draws))][others_of("test", level.ids)]
    kept = round_trip(vae, level.images, device())
    compared = {ORIGINAL: level.originals, INPUT: level.images, AUTOENCODER: kept}
    return {**compared, **drawn, SHUFFLED: shuffled}


def _scores(level: Level, method: str, seen: list[Seen], was: list[Seen]) -> pd.DataFrame:
    """`seen` of the reconstructions and `was` of the originals: by the backbone and the judge."""
    (maps, word), (judge_maps, judge_word) = seen
    (maps_was, word_was), (judge_maps_was, judge_word_was) = was
    scores = {
        "cos_of_features": feature_scores(maps, level.features)["cos_median"],
        "cos_of_image": feature_scores(maps, maps_was)["cos_median"],
        "judge_cos_of_image": feature_scores(judge_maps, judge_maps_was)["cos_median"],
        "class_of_features": _same_class(word, level.logits),
        "class_of_image": _same_class(word, word_was),
        "judge_class_of_features": _same_class(judge_word, level.logits),
        "judge_class_of_image": _same_class(judge_word, judge_word_was),
        "class_of_target": _is_class(word, level.target),
        "judge_class_of_target": _is_class(judge_word, level.target),
    }
    known = {key: value.numpy() for key, value in scores.items() if value is not None}
    return pd.DataFrame({"level": level.name, "method": method, "image_id": level.ids, **known})


def _same_class(ours: Tensor | None, truth: Tensor | None) -> Tensor | None:
    """Same top-1 class, (N,); None without logits of the same classes."""
    if ours is None or truth is None or ours.shape != truth.shape:
        return None
    return class_scores(ours, truth)["top1_match"]


def _is_class(ours: Tensor | None, target: Tensor | None) -> Tensor | None:
    """Whether the top-1 class is the target's, (N,)."""
    return None if ours is None or target is None else (ours.argmax(1) == target).float()


if __name__ == "__main__":
    run(main)
