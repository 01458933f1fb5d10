"""What else changes when one factor is steered: results/disentanglement/<edit>.{csv,png,pdf}.

For each factor asked for and each factor told by a probe, `changed` is the share of samples whose
kind is another than that of the same sample before (level 0, same noise), over the images that did
not have the wanted kind. `became`, where both factors are one, is the share that show the wanted
kind. Under `other noise` stands a floor: how often two samples of unedited features differ.
"""

import argparse
from collections.abc import Iterator

import pandas as pd

from pipeline.artefacts import disentanglement_file, edit_folder, probe_folder
from pipeline.edits import labelled
from pipeline.examples import read_scores
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.tabular import write_csv
from sacd.figures.edits import plot_disentanglement
from sacd.figures.style import save_figure
from sacd.files import read_json
from sacd.metrics.bootstrap import summarise

NOISE = "other noise (floor)"
SAMPLE = ["method", "image_id", "sample"]

Row = dict[str, str | float | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edit", required=True)
    name = parser.parse_args().edit
    recorder, settings = Recorder("plot_disentanglement", edit=name), load_settings()
    chosen = pick(settings.edits, name, "edit")
    accuracy = {
        factor: values["accuracy"]
        for probe in settings.compare.probes
        for factor, values in read_json(probe_folder(probe) / "accuracy.json").items()
    }
    rows: list[Row] = []
    for backbone in settings.compare.backbones:
        scores = read_scores(edit_folder(backbone, name))
        asked = {
            what: labelled(settings, chosen.concepts, what)[0] for what in scores.what.unique()
        }
        scores.insert(0, "asked", scores.what.map(asked))
        rows += [
            {"backbone": backbone, **row, "probe_accuracy": accuracy[str(row["factor"])]}
            for row in _changes(scores, list(accuracy), settings.seed)
        ]
    table = pd.DataFrame(rows)
    path = disentanglement_file(name)
    write_csv(path, table)
    shown = table[(table.method == chosen.methods[0])]
    save_figure(plot_disentanglement(shown, list(accuracy), NOISE), path.with_suffix(""))
    recorder.write(
        path.with_suffix(".record.json"),
        settings,
    )


def _changes(scores: pd.DataFrame, factors: list[str], seed: int) -> Iterator[Row]:
    """A row for each (asked, level, method, factor), and the floor's."""
    scores = scores[scores.asked.isin(factors)]
    before = scores[scores.level == 0].drop_duplicates(SAMPLE).set_index(SAMPLE)
    for (asked, level, method), group in scores.groupby(["asked", "level", "method"], sort=False):
        steered = group[group[f"own_{asked}"] != group[f"wanted_{asked}"]]
        was = before.loc[pd.MultiIndex.from_frame(steered[SAMPLE])]
        for factor in factors:
            kind = f"kind_{factor}"
            found = pd.DataFrame(
                {
                    "image_id": steered.image_id,
                    "changed": (steered[kind].to_numpy() != was[kind].to_numpy()).astype(float),
                }
            )
            if factor == asked:
                found["became"] = (steered[kind] == steered[f"wanted_{asked}"]).astype(float)
            head = {"asked": asked, "level": level, "method": method, "factor": factor}
            yield {**head, **summarise(found, ("changed", "became"), seed)}
    unedited = before.reset_index()
    for method, group in unedited[unedited["sample"] < 2].groupby("method", sort=False):
        for factor in factors:
            kinds = group.pivot(index="image_id", columns="sample", values=f"kind_{factor}")
            if kinds.shape[1] < 2:
                continue
            changed = (kinds[0] != kinds[1]).astype(float).rename("changed").reset_index()
            head = {"asked": NOISE, "level": 0.0, "method": method, "factor": factor}
            yield {**head, **summarise(changed, ("changed", "became"), seed)}


if __name__ == "__main__":
    run(main)
