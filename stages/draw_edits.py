"""Draw from edited features and score what came of it: edits/<backbone>/<edit>/.

scores.parquet has a row for each (what was edited, level, method, image, sample); level 0 is what
the method draws from the features as they were. All is seen anew in the images drawn:

- `cos_of_asked`, `rel_l2_of_asked`: how near their features are to the edited ones.
- `efficacy`, `off_axis`, `off_region`: see `sacd.concepts.effects`, against what was drawn at level
  0 with the same noise; `response`, for mixtures: how far they went towards that drawn at weight 1.
- `plausible`: the percentile of the edited features' distance to real ones (a mean over locations).
- `p_own`, `p_wanted`, and the judge's: the probability of the class that the image had, and of what
  should appear.
- `kind_<factor>`: what the probes tell; `own_<factor>` and `wanted_<factor>`: what was, and what
  should appear.

examples.safetensors holds pictures of some images, uint8 (extents, EXAMPLES, 3, S, S) by method.
"""

import argparse

import pandas as pd
from torch import Tensor

from pipeline.artefacts import OTHER, edit_folder
from pipeline.edits import Edited, Subjects, choose_subjects, edits_of
from pipeline.examples import write_drawn
from pipeline.methods import prepare_once
from pipeline.observer import Observer, Scores
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.settings.sections import Settings
from sacd.concepts.effects import efficacy, off_target, response
from sacd.optimization import evenly_spaced

EXAMPLES = 3  # images whose pictures are kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--edit", required=True)
    arguments = parser.parse_args()
    name, edit = arguments.backbone, arguments.edit
    recorder, settings = Recorder("draw_edits", backbone=name, edit=edit), load_settings()
    chosen = pick(settings.edits, edit, "edit")
    observer = Observer(settings, name)
    subjects = choose_subjects(settings, chosen, name, observer.factors)
    tables, examples = _draw(settings, edit, name, observer, subjects)
    folder = edit_folder(name, edit)
    write_drawn(folder, tables, examples)
    recorder.write(
        folder / "record.json",
        settings,
    )


def _draw(
    settings: Settings, edit: str, backbone: str, observer: Observer, subjects: Subjects
) -> tuple[list[pd.DataFrame], dict[str, list[Tensor]]]:
    """Rows of scores and example pictures, of every edited feature map and every method."""
    chosen = settings.edits[edit]
    draws = prepare_once(settings, backbone, chosen.methods, chosen.samples, "draw_edits", edit)
    tables: list[pd.DataFrame] = []
    examples: dict[str, list[Tensor]] = {
        "original": [evenly_spaced(subjects.images, EXAMPLES)],
        OTHER: [evenly_spaced(subjects.images[subjects.others], EXAMPLES)],
    }
    before: dict[str, Tensor] = {}  # features of the images that each method draws at level 0
    full: dict[str, Tensor] = {}  # and those of a mixture at share 1
    for edited in edits_of(settings, chosen, backbone, subjects):
        plausible = observer.plausible(edited)
        for method, draw in draws.items():
            label = f"{backbone} {edit} {edited.what} {edited.level:g} {method}"
            images = draw(subjects.ids, edited.features, label)
            seen, table = observer.look(images, subjects, edited)
            if edited.level == 0:
                before[method] = seen
            else:
                table |= _effects(edited, subjects, before[method], seen)
            if chosen.type == "mixture" and edited.level > 0:
                full.setdefault(method, seen)
                table["response"] = response(before[method], seen, full[method])
            table["plausible"] = plausible.repeat_interleave(images.shape[1])
            tables.append(_rows(edited, method, subjects, images.shape[1], table))
            examples.setdefault(method, []).append(evenly_spaced(images[:, 0], EXAMPLES))
    return tables, examples


def _effects(edited: Edited, subjects: Subjects, before: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Whether the edit landed, and what else changed, (N K,) each."""
    repeats = len(seen) // len(edited.features)
    asked = (edited.features - subjects.features).repeat_interleave(repeats, 0)
    region = edited.region.repeat_interleave(repeats, 0)
    return {
        "efficacy": efficacy(before, seen, asked, region),
        **off_target(before, seen, asked, region),
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
