"""Reconstruct from disturbed inputs: robustness/<backbone>/<disturbance>/.

scores.parquet has a row for each (level, method, image). Does a reconstruction show what the
features say (columns `*_of_features`), or what the image was (`*_of_image`)? For comparison, the
image itself stands among the methods: `original`, and as disturbed, `input`. examples.safetensors
holds one image's pictures, uint8 (levels, 3, S, S) for each method.
"""

import argparse

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from sacd.files import atomic
from sacd.metrics.features import class_scores, feature_scores
from stages.artefacts import robustness_folder
from stages.common import Clock, run
from stages.disturbances import Level, Seen, levels_of, see
from stages.inputs import load_backbone
from stages.methods import draw_all, prepare
from stages.sections import MethodSettings, changed
from stages.settings import load_settings, pick

ORIGINAL, INPUT = "original", "input"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--disturbance", required=True)
    arguments = parser.parse_args()
    name, disturbance = arguments.backbone, arguments.disturbance
    clock, settings = Clock(), load_settings()
    chosen = pick(settings.disturbances, disturbance, "disturbance")
    backbone, judge = load_backbone(name), load_backbone(settings.compare.judge)
    draws = {
        method: prepare(settings, name, _one_sample(settings.methods[method]))[0]
        for method in chosen.methods
    }
    tables: list[pd.DataFrame] = []
    examples: dict[str, list[Tensor]] = {}
    for level in levels_of(settings, disturbance, chosen, backbone, name):
        drawn = {ORIGINAL: level.originals, INPUT: level.images}
        for method, draw in draws.items():
            label = f"{name} {disturbance} {level.name} {method}"
            drawn[method] = draw_all(draw, level.ids, level.features, label)[:, 0]
        seen = {m: [see(eye, images) for eye in (backbone, judge)] for m, images in drawn.items()}
        for method, images in drawn.items():
            tables.append(_scores(level, method, seen[method], seen[ORIGINAL]))
            examples.setdefault(method, []).append(images[len(images) // 2])
    folder = robustness_folder(name, disturbance)
    with atomic(folder) as temporary:
        temporary.mkdir()
        pd.concat(tables, ignore_index=True).to_parquet(temporary / "scores.parquet", index=False)
        pictures = {method: torch.stack(images) for method, images in examples.items()}
        save_file(pictures, temporary / "examples.safetensors")
    clock.finish(
        folder / "record.json",
        {
            "seed": settings.seed,
            "disturbance": chosen.model_dump(),
            "methods": {method: settings.methods[method].model_dump() for method in draws},
        },
    )


def _one_sample(method: MethodSettings) -> MethodSettings:
    return changed(method, {"samples": 1}) if "samples" in type(method).model_fields else method


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
    }
    known = {key: value.numpy() for key, value in scores.items() if value is not None}
    return pd.DataFrame({"level": level.name, "method": method, "image_id": level.ids, **known})


def _same_class(ours: Tensor | None, truth: Tensor | None) -> Tensor | None:
    """Same top-1 class, (N,); None without logits of the same classes."""
    if ours is None or truth is None or ours.shape != truth.shape:
        return None
    return class_scores(ours, truth)["top1_match"]


if __name__ == "__main__":
    run(main)
