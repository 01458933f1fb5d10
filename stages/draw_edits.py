"""Draw from edited features and score what came of it: edits/<backbone>/<edit>/.

scores.parquet has a row for each (what was edited, level, method, image, sample); level 0 is what
the method draws from the features as they were. All is seen anew in the images drawn:

- `cos_of_asked`, `rel_l2_of_asked`: how near their features are to the edited ones.
- `landed`, `across`, `outside`: see `sacd.concepts.effects`, against what was drawn at level 0 with
  the same noise; `response`, for mixtures: how far they went towards what was drawn at share 1.
- `plausible`: the percentile of the edited features' distance to real ones (a mean over locations).
- `p_own`, `p_wanted`, and the judge's: the probability of the class that the image had, and of what
  should appear.
- `kind_<factor>`: what the readouts tell; `own_<factor>` and `wanted_<factor>`: what was, and what
  should appear.

examples.safetensors holds pictures of some images, uint8 (extents, EXAMPLES, 3, S, S) by method.
"""

import argparse

import pandas as pd
import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from sacd.backbones.backbone import Backbone
from sacd.concepts.directions import locations
from sacd.concepts.effects import Manifold, landed, leaked, response
from sacd.concepts.readout import Readout
from sacd.files import atomic
from sacd.metrics.features import feature_scores
from sacd.optimization import evenly_spaced
from sacd.shards import Shards
from stages.artefacts import edit_folder, feature_folder, readout_folder
from stages.common import Clock, run
from stages.disturbances import see
from stages.edits import BACKBONE, EYES, JUDGE, Edited, Subjects, choose_subjects, edits_of
from stages.evaluation import load_finder, read_parts
from stages.inputs import load_backbone, spread_rows
from stages.methods import draw_all, prepare
from stages.sections import Settings, with_samples
from stages.settings import load_settings, pick

MANIFOLD_IMAGES, MANIFOLD_LOCATIONS = 512, 4096  # real features that edited ones are compared with
EXAMPLES = 3  # images whose pictures are kept

Scores = dict[str, Tensor | list[str]]  # by name, a value for each of N K images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--edit", required=True)
    arguments = parser.parse_args()
    name, edit = arguments.backbone, arguments.edit
    clock, settings = Clock(), load_settings()
    chosen = pick(settings.edits, edit, "edit")
    observer = Observer(settings, name)
    subjects = choose_subjects(settings, chosen, name, observer.factors)
    draws = {
        method: prepare(settings, name, with_samples(settings.methods[method], chosen.samples))[0]
        for method in chosen.methods
    }
    tables: list[pd.DataFrame] = []
    examples: dict[str, list[Tensor]] = {
        "original": [evenly_spaced(subjects.images, EXAMPLES)],
        "other": [evenly_spaced(subjects.images[subjects.others], EXAMPLES)],
    }
    unedited: dict[str, Tensor] = {}  # images that each method draws at level 0
    before: dict[str, Tensor] = {}  # their features
    full: dict[str, Tensor] = {}  # and those of a mixture at share 1
    for edited in edits_of(settings, chosen, name, subjects):
        plausible = observer.plausible(edited)
        for method, draw in draws.items():
            label = f"{name} {edit} {edited.what} {edited.level:g} {method}"
            if edited.level == 0 and method in unedited:
                images = unedited[method]
            else:
                images = draw_all(draw, subjects.ids, edited.features, label)
            seen, table = observer.look(images, subjects, edited)
            if edited.level == 0:
                unedited[method], before[method] = images, seen
            else:
                table |= _effects(edited, subjects, before[method], seen)
            if chosen.type == "mixture" and edited.level > 0:
                full.setdefault(method, seen)
                table["response"] = response(before[method], seen, full[method])
            table["plausible"] = plausible.repeat_interleave(images.shape[1])
            tables.append(_rows(edited, method, subjects, images.shape[1], table))
            examples.setdefault(method, []).append(evenly_spaced(images[:, 0], EXAMPLES))
    folder = edit_folder(name, edit)
    with atomic(folder) as temporary:
        temporary.mkdir()
        pd.concat(tables, ignore_index=True).to_parquet(temporary / "scores.parquet", index=False)
        pictures = {method: torch.stack(shown) for method, shown in examples.items()}
        save_file(pictures, temporary / "examples.safetensors")
    clock.finish(
        folder / "record.json",
        {
            "seed": settings.seed,
            "edit": chosen.model_dump(),
            "methods": {method: settings.methods[method].model_dump() for method in draws},
        },
    )


class Observer:
    """Who looks at what was drawn: the backbone, the judge, and the readouts of its features."""

    def __init__(self, settings: Settings, backbone: str):
        names = (backbone, settings.compare.judge)
        self._eyes: dict[str, Backbone] = dict(zip(EYES, map(load_backbone, names), strict=True))
        self._readouts = [
            Readout.load(readout_folder(readout) / "readout.safetensors")
            for readout in settings.compare.readouts
        ]
        self._finder: UNet2DModel | None = load_finder(settings) if self._readouts else None
        train = Shards(feature_folder(backbone, "train"))
        real = train.read("features", spread_rows(train, MANIFOLD_IMAGES))
        self._manifold = Manifold(locations(real, MANIFOLD_LOCATIONS, settings.seed))

    @property
    def factors(self) -> list[str]:
        """What the readouts tell."""
        return [factor for readout in self._readouts for factor in readout.kinds]

    def plausible(self, edited: Edited) -> Tensor:
        """`Manifold.percentile` of edited features, (N,)."""
        return self._manifold.percentile(edited.features, edited.region)

    def look(self, images: Tensor, subjects: Subjects, edited: Edited) -> tuple[Tensor, Scores]:
        """Features (N K, C, h, w) of images uint8 (N, K, 3, S, S), and the scores they give."""
        repeats, flat = images.shape[1], images.flatten(0, 1)
        seen = {eye: see(network, flat) for eye, network in self._eyes.items()}
        features = seen[BACKBONE][0]
        against = feature_scores(features, edited.features.repeat_interleave(repeats, 0))
        scores: Scores = {
            "cos_of_asked": against["cos_median"],
            "rel_l2_of_asked": against["rel_l2"],
        }
        for eye, (_, logits) in seen.items():
            if logits is None or eye not in subjects.logits:
                continue
            said = logits.float().softmax(1)
            own = subjects.logits[eye].argmax(1).repeat_interleave(repeats)
            scores[f"{eye}p_own"] = said.gather(1, own[:, None])[:, 0]
            if eye in edited.wanted:
                wanted = edited.wanted[eye].repeat_interleave(repeats, 0)
                scores[f"{eye}p_wanted"] = (said * wanted).sum(1)
        if self._readouts:
            parts = read_parts(seen[JUDGE][0], flat, self._finder)
            for readout in self._readouts:
                scores |= {f"kind_{factor}": kinds for factor, kinds in readout.read(parts).items()}
        return features, scores


def _effects(edited: Edited, subjects: Subjects, before: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Whether the edit landed, and what else changed, (N K,) each."""
    repeats = len(seen) // len(edited.features)
    asked = (edited.features - subjects.features).repeat_interleave(repeats, 0)
    region = edited.region.repeat_interleave(repeats, 0)
    return {
        "landed": landed(before, seen, asked, region),
        **leaked(before, seen, asked, region),
    }


def _rows(
    edited: Edited,
    method: str,
    subjects: Subjects,
    repeats: int,
    scores: Scores,
) -> pd.DataFrame:
    """One row an image and sample."""
    truth = {f"own_{factor}": kinds for factor, kinds in subjects.kinds.items()}
    truth |= {f"wanted_{factor}": kinds for factor, kinds in edited.wanted_kinds.items()}
    return pd.DataFrame(
        {
            "what": edited.what,
            "level": edited.level,
            "method": method,
            "image_id": [name for name in subjects.ids for _ in range(repeats)],
            "sample": list(range(repeats)) * len(subjects.ids),
            **{key: v.numpy() if isinstance(v, Tensor) else v for key, v in scores.items()},
            **{key: [kind for kind in v for _ in range(repeats)] for key, v in truth.items()},
        }
    )


if __name__ == "__main__":
    run(main)
