"""Summarise an edit over backbones: results/edits/<edit>.{csv,md} and its figures.

Beside the scores of `stages.draw_edits`, the table has for each factor that a probe tells the
share of samples that show the kind that was there (`<factor>_own`) and that should appear
(`<factor>_wanted`). The page for reading says of steering how far it is effective (EFFECTIVE of
what was asked) and how far edited features stay plausible (percentile PLAUSIBLE): going down and up
from 0, the last strength before it no longer holds. Its last column is the share of samples that
show the wanted kind, told by a probe.
"""

import argparse

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.artefacts import OTHER, edit_file, edit_folder
from pipeline.examples import read_examples, read_scores
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.tabular import interval, markdown, write_csv
from sacd.figures.edits import PANELS, plot_edit_examples, plot_edits
from sacd.figures.style import rgb, save_figure
from sacd.files import write_text
from sacd.metrics.bootstrap import summarise

METRICS = (
    "cos_of_asked", "rel_l2_of_asked", "efficacy", "off_axis", "off_region", "response",
    "plausible", "p_own", "p_wanted", "judge_p_own", "judge_p_wanted",
)  # fmt: skip
READ = ("cos_of_asked", "efficacy", "off_region", "response", "judge_p_own", "judge_p_wanted")
EFFECTIVE, PLAUSIBLE = 0.5, 95.0
FROM_ANOTHER = ("mixture", "transplant", "union")  # edits that bring in another image's features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edit", required=True)
    name = parser.parse_args().edit
    recorder, settings = Recorder("plot_edits", edit=name), load_settings()
    chosen = pick(settings.edits, name, "edit")
    backbones = settings.compare.backbones
    folders = {backbone: edit_folder(backbone, name) for backbone in backbones}
    scores = {backbone: _with_shares(read_scores(folders[backbone])) for backbone in backbones}
    table = _table(scores, list(chosen.methods), settings.seed)
    steering = chosen.type == "steering"
    path = edit_file(name)
    write_csv(path, table)
    write_text(path.with_suffix(".md"), _limits(table) if steering else _outcomes(table))
    save_figure(plot_edits(table, chosen.type), path.with_suffix(""))
    pictures = {b: _examples(read_examples(folders[b]), scores[b], chosen.type) for b in backbones}
    save_figure(plot_edit_examples(pictures), path.with_name(f"{name}_examples"))
    recorder.write(
        path.with_suffix(".record.json"),
        settings,
    )


def _with_shares(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with, for each factor, whether its kind is the own one and whether the wanted one."""
    for column in [c for c in scores if c.startswith("kind_")]:
        factor = column.removeprefix("kind_")
        for which in ("own", "wanted"):
            if (truth := f"{which}_{factor}") in scores:
                agrees = (scores[column] == scores[truth]).astype(float)
                scores[f"{factor}_{which}"] = agrees.where(scores[truth].notna())
    truths = [c for c in scores if c.startswith(("own_", "wanted_"))]
    return scores.drop(columns=truths)


def _table(scores: dict[str, pd.DataFrame], methods: list[str], seed: int) -> pd.DataFrame:
    """Means with intervals of each backbone's scores, by what was edited, level and method."""
    rows = []
    for backbone, table in scores.items():
        shares = [column for column in table if column.endswith(("_own", "_wanted"))]
        metrics = list(dict.fromkeys((*METRICS, *shares)))
        groups = table.groupby(["what", "level", "method"])
        for what, level, method in sorted(
            groups.groups, key=lambda key: (key[0], key[1], methods.index(key[2]))
        ):
            row = {"backbone": backbone, "what": what, "method": method, "level": level}
            group = groups.get_group((what, level, method))
            rows.append(row | summarise(group, metrics, seed))
    summary = pd.DataFrame(rows)
    texts = ("backbone", "what", "method")
    return summary.astype({column: float for column in summary if column not in texts})


def _limits(table: pd.DataFrame) -> str:
    """Of each direction, how far steering along it works, and what it does at each strength."""
    levels = ", ".join(f"{level:g}" for level in sorted(table.level.unique()))
    rows = []
    for head, group in table.groupby(["backbone", "what", "method"], sort=False):
        by_level = group.set_index("level")
        holds = (by_level.efficacy >= EFFECTIVE, by_level.plausible <= PLAUSIBLE)
        reaches = [f"{_reach(held, -1)} to {_reach(held, 1)}" for held in holds]
        factor = [f"{c}_wanted" for c in _factors(group) if group[f"{c}_wanted"].notna().any()]
        told = [by_level[metric] for metric in ("efficacy", "judge_p_wanted", *factor)]
        cells = [_along(values) for values in told] + ["n/a"] * (1 - len(factor))
        rows.append([*head, *reaches, *cells])
    heads = ["backbone", "concept", "method", f"effective ({EFFECTIVE:.0%})", "plausible"]
    told = [f"{name} ({levels})" for name in ("efficacy", "judge_p_wanted", "shows what is wanted")]
    return markdown([*heads, *told], rows)


def _along(values: pd.Series) -> str:
    """A metric at each level."""
    if values.isna().all():
        return "n/a"
    return ", ".join("-" if pd.isna(value) else f"{value:.2f}" for value in values.sort_index())


def _factors(table: pd.DataFrame) -> list[str]:
    """What probes told."""
    ends = [c.removesuffix("_wanted") for c in table if c.endswith("_wanted")]
    return [name for name in ends if name not in ("p", "judge_p")]


def _reach(holds: pd.Series, sign: int) -> str:
    """The last level, going from 0 in one direction, up to which something holds."""
    furthest = 0.0
    for level in sorted((level for level in holds.index if level * sign > 0), key=abs):
        if not holds[level]:
            break
        furthest = level
    return f"{furthest:+g}" if furthest else "0"


def _outcomes(table: pd.DataFrame) -> str:
    """What came of a composition, at each level."""
    shown = [metric for metric in READ if table[metric].notna().any()]
    rows = [
        [row["backbone"], row["method"], f"{row['level']:g}", *(interval(row, m) for m in shown)]
        for row in table.to_dict("records")
    ]
    return markdown(["backbone", "method", "level", *shown], rows)


def _examples(
    stored: dict[str, Tensor], scores: pd.DataFrame, kind: str
) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Labelled strips: for steering one image by direction, else several; for each method.

    The pictures of a method are in the order in which its scores were written.
    """
    strips = []
    steering = kind == "steering"
    names = {} if kind in PANELS else {0.0: "before", 1.0: "after"}
    extents = list(dict.fromkeys(zip(scores.what, scores.level, strict=True)))
    shown = range(1) if steering else range(stored["original"].shape[1])
    for number in shown:
        ends = [("original", rgb(stored["original"][0, number]))]
        if kind in FROM_ANOTHER:
            ends.append((OTHER, rgb(stored[OTHER][0, number])))
        for what in dict.fromkeys(scores.what):
            for method in dict.fromkeys(scores.method):
                levels = sorted((level, n) for n, (w, level) in enumerate(extents) if w == what)
                drawn = [
                    (names.get(level, f"{level:g}"), rgb(stored[method][n, number]))
                    for level, n in levels
                ]
                strips.append((f"{what}\n{method}" if steering else method, ends + drawn))
    return strips


if __name__ == "__main__":
    run(main)
