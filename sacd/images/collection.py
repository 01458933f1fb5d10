"""Photographs from a folder, a tar or a zip archive: what there is, and which are chosen.

How they may lie in it is told in `sacd.images.layout`. A folder may also hold ImageNet's official
archives.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from sacd.errors import SacdError, unknown_name
from sacd.images.archives import Files, open_archive
from sacd.images.decoding import EXTENSIONS, SMALLEST, Unusable, load_square
from sacd.images.folders import in_side_folder, open_folder
from sacd.images.imagenet import is_official, open_official
from sacd.images.layout import EXPECTED, Entry, place, suffix

__all__ = ["SMALLEST", "Collection", "Entry", "Unusable", "load_square"]

# Bytes that are no UTF-8 (as Python keeps them in a name), and characters that control a terminal.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Collection:
    """A readable collection of images; `entries` are sorted by path.

    A path has what cannot be printed in its name written out (`caf\\xe9.png`). `left_out` are
    files, and links (the class is "" where they hold folders), that are not read, with the reason.
    `key` is the parameter that names the collection, for messages.
    """

    def __init__(self, source: Path, key: str = "images.source"):
        self.source = source
        try:
            files = _open_source(source)
            self._read = files.read
            self._names = {printable(name): name for name in files.names}
            layout = place(self._names, self.read)
        except SacdError as error:
            start = "" if str(error).startswith(str(source)) else f"{source}: "
            raise SacdError(f"{key}: {start}{printable(str(error))}") from error
        except (Unusable, ValueError, csv.Error, RecursionError) as error:
            raise SacdError(
                f"{key}: {source}: a list of classes cannot be read ({error})."
            ) from error
        self.entries = sorted(layout.entries, key=lambda e: e.path)
        self._classes = {e.class_name for e in layout.entries} | {
            e.class_name for e, _ in layout.left_out if e.class_name
        }
        links = [(printable(name), printable(why)) for name, why in files.left_out.items()]
        self.left_out = sorted(
            [
                *layout.left_out,
                *((self._link(name), why) for name, why in links if not in_side_folder(name)),
            ],
            key=lambda pair: pair[0].path,
        )

    def read(self, path: str) -> bytes:
        """The bytes of a file; raises `Unusable` with the reason."""
        try:
            return self._read(self._names[path])
        except Unusable:
            raise
        except Exception as error:  # a damaged archive leads to whatever it leads to
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise Unusable(f"unreadable: {reason}") from error

    def _link(self, name: str) -> Entry:
        parent = PurePosixPath(name).parent.name
        return Entry(name, "", parent if parent in self._classes else "")

    def choose(
        self, classes: str | int | list[str], per_class: dict[str, int], seed: int
    ) -> dict[str, dict[str, list[Entry]]]:
        """Candidates of each split and class, in a random order fixed by `seed`.

        With `train/`, `val/` and `test/` folders each split has its own; with two, test and val
        images come from the one beside `train/`; without such folders all three come from the one
        set. Of images in common, test takes them from the front of a class, val from its back and
        train from its middle outwards, so that changing one count does not move images between
        splits while there are enough. A list is the whole pool left for its split: take as many as
        are wanted and usable.
        """
        pools: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            pools[entry.split, entry.class_name].append(entry)
        rng = np.random.default_rng(seed)
        for key in sorted(pools):
            rng.shuffle(pools[key])
        folders = self._split_folders()
        has_folders = "train" in folders
        chosen: dict[str, dict[str, list[Entry]]] = {"test": {}, "val": {}, "train": {}}
        for name in self._class_names(classes):
            if {"test", "val"} <= folders:
                for split in chosen:
                    chosen[split][name] = pools.get((split, name), [])
                continue
            evaluated = [entry for s in ("", "val", "test") for entry in pools.get((s, name), [])]
            trained = pools.get(("train", name), []) if has_folders else evaluated
            # A tenth more than asked for stays in reserve for unusable files, if there is more.
            wanted = sum(per_class[s] for s in ("test", "val", *([] if has_folders else ["train"])))
            spare = max(0, len(evaluated) - wanted) // 2
            test, val = (
                per_class[s] + min(spare, max(2, per_class[s] // 10)) for s in ("test", "val")
            )
            rest = evaluated[test:]
            chosen["test"][name] = evaluated[:test]
            chosen["val"][name] = rest[::-1][:val]
            if not has_folders:
                middle = range(test, max(test, len(evaluated) - val))
                order = sorted(middle, key=lambda row: abs(2 * row - len(evaluated)))
                trained = [evaluated[row] for row in order]
            chosen["train"][name] = trained
        return chosen

    def _split_folders(self) -> set[str]:
        """The splits that have folders of their own, none or at least two; else `SacdError`."""
        found = {entry.split for entry in self.entries} - {""}
        if found and not ("train" in found and len(found) > 1):
            raise SacdError(
                f"images.source: {self.source}: layout: of the split folders only "
                f"{' and '.join(sorted(found))} is there with classes; expected is {EXPECTED}. To "
                "draw all splits from one folder, name that folder."
            )
        return found

    def _class_names(self, classes: str | int | list[str]) -> list[str]:
        names = self._named_classes(classes)
        usable = {entry.class_name for entry in self.entries}
        for name in names:
            if name not in usable:
                files = [entry.path for entry, _ in self.left_out if entry.class_name == name]
                kinds = ", ".join(sorted({suffix(path) or "without a suffix" for path in files}))
                raise SacdError(
                    f"images.classes: class '{name}' of {self.source} has no file of a type that "
                    f"is read ({', '.join(sorted(EXTENSIONS))}), but {len(files)} {kinds}; convert "
                    "them or name the other classes."
                )
        return names

    def _named_classes(self, classes: str | int | list[str]) -> list[str]:
        known = sorted(self._classes)
        if classes == "all":
            return known
        if isinstance(classes, int):
            if classes > len(known):
                raise SacdError(
                    f"images.classes: {classes} asked for, {self.source} has {len(known)}."
                )
            return known[:classes]
        for name in classes:
            if name not in known:
                raise unknown_name("class", name, known, "images.classes")
        return sorted(classes)


def printable(name: str) -> str:
    """The name with every byte or character that cannot be printed written as `\\x..`."""
    return UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", name)


def _open_source(source: Path) -> Files:
    if is_official(source):
        return open_official(source)
    if source.is_dir():
        return open_folder(source)
    if not source.exists():
        raise SacdError(f"{source}: no such folder or archive.")
    if not source.is_file():
        raise SacdError(f"{source}: not a folder, tar or zip.")
    try:
        return open_archive(source)
    except SacdError:
        raise
    except Exception as error:  # a damaged archive leads to whatever it leads to
        raise SacdError(f"{source}: not a folder, tar or zip ({error}).") from error
