"""Which figures the report shows beside those of the main table."""

from pathlib import Path

from pipeline.artefacts import (
    concept_file,
    disentanglement_file,
    edit_file,
    layers_file,
    robustness_file,
    sweep_file,
)
from pipeline.settings.sections import Compare


def more_figures(compare: Compare) -> list[tuple[str, str, Path]]:
    """(title, caption, path) of each, in order.

    A caption is the name of a file in workflow/report/.
    """
    found = [("Sweeps", "sweep", sweep_file(name)) for name in compare.sweeps]
    for name in compare.disturbances:
        path = robustness_file(name)
        found.append(("Robustness", "robustness", path))
        found.append(("Robustness", "robustness_examples", _examples(path)))
    found += [("Layers", "layers", layers_file(name)) for name in compare.layers]
    found += [("Concepts", "concepts", concept_file(name)) for name in compare.concepts]
    for name in compare.edits:
        path = edit_file(name)
        found.append(("Edits", "edits_examples", _examples(path)))
        found.append(("Edits", "edits", path))
    found += [
        ("Disentanglement", "disentanglement", disentanglement_file(name))
        for name in compare.disentangled
    ]
    return [(title, caption, path.with_suffix(".png")) for title, caption, path in found]


def _examples(path: Path) -> Path:
    """Where the pictures lie that go with a table."""
    return path.with_name(f"{path.stem}_examples.png")
