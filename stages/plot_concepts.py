"""Show a set of concepts for all backbones: results/concepts/<concepts>.{csv,png,pdf}.

In the table, `explained` is the share of the features' variance along a direction, `scale` the unit
in which edits are given, and `accuracy`, where labels told what to look for, how well the direction
tells it on images that it was not found on (0.5 is chance).
"""

import argparse

import pandas as pd

from pipeline.artefacts import concept_file, concept_folder
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.tabular import write_csv
from sacd.concepts.directions import Directions
from sacd.figures.concepts import plot_concepts
from sacd.figures.mosaic import mosaic
from sacd.figures.style import save_figure
from sacd.files import read_json
from sacd.tensors import reading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", required=True)
    name = parser.parse_args().concepts
    recorder, settings = Recorder("plot_concepts", concepts=name), load_settings()
    pick(settings.concepts, name, "set of concepts")
    table, pictures = [], {}
    for backbone in settings.compare.backbones:
        folder = concept_folder(backbone, name)
        found = Directions.load(folder / "directions.safetensors")
        with reading(folder / "patches.safetensors", "patches") as file:
            patches = file["patches"]
        accuracy = read_json(folder / "accuracy.json")
        rows = _rows(backbone, found, accuracy)
        table += rows
        pictures[backbone] = [
            (_label(row), mosaic(shown, len(shown)))
            for row, shown in zip(rows, patches, strict=True)
        ]
    path = concept_file(name)
    write_csv(path, pd.DataFrame(table))
    save_figure(plot_concepts(pictures), path.with_suffix(""))
    recorder.write(
        path.with_suffix(".record.json"),
        settings,
    )


def _rows(
    backbone: str, found: Directions, accuracy: dict[str, float]
) -> list[dict[str, str | float | None]]:
    return [
        {
            "backbone": backbone,
            "concept": concept,
            "explained": explained,
            "scale": scale,
            "accuracy": accuracy.get(concept),
        }
        for concept, explained, scale in zip(
            found.names, found.explained.tolist(), found.scales.tolist(), strict=True
        )
    ]


def _label(row: dict[str, str | float | None]) -> str:
    """The concept and what speaks for it."""
    if row["accuracy"] is None:
        return f"{row['concept']}\n{row['explained']:.1%} of variance"
    return f"{row['concept']}\naccuracy {row['accuracy']:.2f}"


if __name__ == "__main__":
    run(main)
