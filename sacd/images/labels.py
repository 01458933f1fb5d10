"""Classes that a list tells, for images that do not lie in class folders."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import PurePosixPath
from typing import Any

LISTS = {".txt", ".csv", ".tsv"}
METADATA = ("metadata.csv", "metadata.jsonl")
LABELS = ("label", "labels", "class", "class_name", "category")

Read = Callable[[str], bytes]


def from_metadata(names: Iterable[str], read: Read) -> dict[str, str]:
    """Image -> class, by the files metadata.csv or metadata.jsonl of Hugging Face's imagefolder.

    They name an image by its path from where they lie (`file_name`); those without labels count
    for nothing.
    """
    classes: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name) if name.endswith(METADATA) else None
        if path and path.name in METADATA:
            for row in _rows(path.name, _text(read(name))):
                file, label = row.get("file_name"), _label(row)
                if isinstance(file, str) and label:
                    classes[str(path.parent / file)] = label
    return classes


def from_lists(
    images: list[str], names: Iterable[str], known: set[str], word: str, read: Read
) -> dict[str, str]:
    """Image -> class, by a list with a line for each: its name, then a class of the `known`.

    Looked for are text files whose path has `word` in it (`val_annotations.txt`,
    `LOC_val_solution.csv`); the first that names every image counts, and else none.
    """
    stems = {PurePosixPath(name).stem: name for name in images}
    for name in sorted(names):
        if PurePosixPath(name).suffix.lower() in LISTS and word in name.lower():
            classes = {}
            for line in _text(read(name)).splitlines():
                fields = re.split(r"[\s,;]+", line.strip())
                image = stems.get(PurePosixPath(fields[0]).stem)
                if image and len(fields) > 1 and fields[1] in known:
                    classes[image] = fields[1]
            if len(classes) == len(images):
                return classes
    return {}


def _rows(name: str, text: str) -> Iterable[dict[str, Any]]:
    if name.endswith(".csv"):
        yield from csv.DictReader(StringIO(text, newline=""))
        return
    for line in text.splitlines():
        row = json.loads(line) if line.strip() else None
        if isinstance(row, dict):
            yield row


def _label(row: dict[str, Any]) -> str:
    label = next((row[key] for key in LABELS if key in row), None)
    return " ".join(str(label).split()) if isinstance(label, str | int) else ""


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="replace").replace("\0", "")
