"""Write params.yaml of the experiments that say how they differ from another one.

    python workflow/resolve.py

reads every experiments/NAME/experiment.yaml: `base` is the experiment that it starts from (or
`root`), `changes` are merged into that one's parameters key by key, and `without` lists keys that
go, by their dotted paths. Lists and single values are replaced; `{}` empties a section. What is run
of a section (`compare.methods` and so on) is all of it, unless `changes` name it. A `source` that
is a path leads to the same place from the new folder. What comes of it is params.yaml beside it,
which alone is run.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.settings.load import checked, read_parameters  # noqa: E402
from sacd.errors import SacdError, unknown_name  # noqa: E402
from sacd.files import write_text  # noqa: E402

SAYS, RESOLVED = "experiment.yaml", "params.yaml"
KEYS = {"base", "changes", "without"}
RUN_WHOLE = {
    "segmenters", "adapters", "decoders", "methods", "sweeps", "disturbances", "layers", "concepts",
    "probes", "edits",
}  # fmt: skip
HEADER = """\
# Written by `make experiments` from experiment.yaml, which says how it differs from {base}. What is
# run is this file.
"""

Parameters = dict[str, Any]


def experiments(root: Path = ROOT) -> Iterator[Path]:
    """The folders with an experiment.yaml."""
    yield from (path.parent for path in sorted(root.glob(f"experiments/*/{SAYS}")))


def text_of(folder: Path) -> str:
    """The params.yaml of an experiment that has a base; raises `SacdError` if it can't be run."""
    base, _, _ = _said(folder)
    parameters = resolved(folder)
    checked(parameters, folder / SAYS)
    whole = yaml.dump(parameters, Dumper=_Dumper, sort_keys=False, width=100)
    return HEADER.format(base=base) + whole


def resolved(folder: Path, above: tuple[Path, ...] = ()) -> Parameters:
    """The parameters of the experiment in `folder`; `above` are those that start from it."""
    if folder in above:
        names = " -> ".join(path.name for path in (*above, folder))
        raise SacdError(f"{folder / SAYS}: base: leads back to itself ({names}).")
    if not (folder / SAYS).exists():
        return _parameters(folder / RESOLVED)
    name, changes, without = _said(folder)
    root = folder.parent.parent
    known = {path.parent.name: path.parent for path in root.glob(f"experiments/*/{RESOLVED}")}
    known |= {path.name: path for path in experiments(root)} | {"root": root}
    if name not in known:
        raise unknown_name("experiment", name, known, f"{folder / SAYS}: base")
    base = _moved(resolved(known[name], (*above, folder)), known[name], folder)
    for path in without:
        _remove(base, path, f"{folder / SAYS}: without: {path}")
    found = _merged(base, changes) if changes else base
    for section in RUN_WHOLE - changes.get("compare", {}).keys():
        found["compare"][section] = list(found.get(section, {}))
    return found


def _said(folder: Path) -> tuple[str, Parameters, list[str]]:
    said = _parameters(folder / SAYS)
    if strangers := said.keys() - KEYS:
        raise unknown_name("key", str(min(strangers, key=str)), KEYS, str(folder / SAYS))
    base, changes, without = said.get("base"), said.get("changes", {}), said.get("without", [])
    if not isinstance(base, str) or not isinstance(changes, dict) or not isinstance(without, list):
        raise SacdError(
            f"{folder / SAYS}: needs a base (a name), and may have changes (keys) and without (a "
            f"list)."
        )
    return base, changes, [str(path) for path in without]


def _parameters(path: Path) -> Parameters:
    found = read_parameters(path)
    if not isinstance(found, dict):
        raise SacdError(f"{path}: holds no keys.")
    return found


def _merged(base: Any, changes: Any) -> Any:
    """`base` with `changes` in place of what stands there; an empty mapping empties a section."""
    if not (isinstance(base, dict) and isinstance(changes, dict) and changes):
        return changes
    return {
        **{key: _merged(value, changes.get(key, value)) for key, value in base.items()},
        **{key: value for key, value in changes.items() if key not in base},
    }


def _remove(parameters: Parameters, path: str, where: str) -> None:
    *parents, key = path.split(".")
    place: Any = parameters
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict) or key not in place:
        raise SacdError(f"{where}: the base has no such key.")
    del place[key]


def _moved(value: Any, here: Path, there: Path) -> Any:
    """A copy, in which every `source` that is a path from `here` is one from `there`."""
    if isinstance(value, list):
        return [_moved(item, here, there) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: os.path.relpath(here / item, there)
        if key == "source" and isinstance(item, str) and _is_path(item, here)
        else _moved(item, here, there)
        for key, item in value.items()
    }


def _is_path(source: str, folder: Path) -> bool:
    return not source.startswith(("/", "~")) and "/" in source and (folder / source).exists()


class _Dumper(yaml.SafeDumper):
    """No anchors, and lists of plain values on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


def main() -> None:
    try:
        for folder in experiments():
            write_text(folder / RESOLVED, text_of(folder))
    except SacdError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
