"""Which folder of an image's path is its class, and which its split.

Read are `<class>/<image>` and `<split>/<class>/<image>`, below any outer folders; a folder `images`
inside every class (Tiny-ImageNet); a validation folder without class folders that a list of names
and classes goes with (Tiny-ImageNet, ImageNet from Kaggle); and imagefolder's metadata with labels.
Everything else is refused: a wrong guess would pass for a result.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import splitext

from sacd.errors import SacdError
from sacd.images.decoding import EXTENSIONS
from sacd.images.folders import in_side_folder, parts
from sacd.images.labels import Read, from_lists, from_metadata

SPLIT = re.compile(
    r"(?P<train>train|training)|(?P<val>val|valid|validation|eval)|(?P<test>test|testing)", re.I
)
AROUND = re.compile(r"[-_ ]?(set|images|imgs|data|\d{0,4})$", re.I)  # train_set, val2017, test1
INNER = {"images", "image", "imgs", "img", "jpegimages"}  # never a class below a class
KNOWN = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".yaml", ".yml",
    ".log", ".ini", ".cfg", ".py", ".sh", ".mat", ".db", ".pkl", ".pdf", ".lock",
}  # fmt: skip
EXPECTED = "train/<class>/<image> with val/<class>/<image>, or <class>/<image>"

Folder = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """An image of a collection: its path inside it, and where the layout puts it."""

    path: str
    split: str
    class_name: str


@dataclass
class Layout:
    """`entries` are images; `left_out` are files beside them, with the reason."""

    entries: list[Entry]
    left_out: list[tuple[Entry, str]]


def place(names: Iterable[str], read: Read) -> Layout:
    """Split and class of every image; raises `SacdError` that says what was found instead.

    `read` gives the bytes of lists with classes. The split is "train", "val", "test" or, where
    there are no such folders, "". A `test` folder without classes is left alone.
    """
    names = sorted(name for name in names if not in_side_folder(name))
    images = [name for name in names if suffix(name) in EXTENSIONS]
    labels = from_metadata(names, read)
    if labels and images:
        return _with_labels(names, labels)
    images = [name for name in images if _folder(name)]  # others are in no class
    if not images:
        kinds = Counter(suffix(name) or "without a suffix" for name in names)
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        raise SacdError(
            f"no images in ImageFolder layout ({EXPECTED}); read are "
            f"{', '.join(sorted(EXTENSIONS))}, found: {found or 'nothing'}."
        )
    splits = _split_folders(images)
    if splits:
        return _with_splits(images, names, splits, read)
    return _without_splits(images, names)


def suffix(name: str) -> str:
    return splitext(name)[1].lower()


def split_kind(folder: str) -> str:
    """ "train", "val" or "test" where a folder's name says so, else ""."""
    found = SPLIT.fullmatch(AROUND.sub("", folder))
    return (found and found.lastgroup) or ""


def _folder(name: str) -> Folder:
    return parts(name.rpartition("/")[0])


def _named_split(folder: Folder) -> str:
    return next((kind for part in reversed(folder) if (kind := split_kind(part))), "")


def _with_labels(names: list[str], labels: dict[str, str]) -> Layout:
    layout = Layout([], [])
    for name in names:
        split, label = _named_split(_folder(name)), labels.get(str(PurePosixPath(name)))
        if suffix(name) not in EXTENSIONS:
            if label:
                layout.left_out.append((Entry(name, split, label), _why(name)))
        elif label:
            layout.entries.append(Entry(name, split, label))
        elif split != "test":
            raise SacdError(f"layout: metadata with labels is there, but none for {name}.")
    return layout


def _split_folders(images: list[str]) -> dict[str, Folder]:
    """The folder of each split that has folders below it, and those beside these that have none."""
    found: dict[str, set[Folder]] = defaultdict(set)
    folders = {_folder(name) for name in images}
    for folder in folders:
        for depth in range(len(folder) - 2, -1, -1):
            if kind := split_kind(folder[depth]):
                found[kind].add(folder[: depth + 1])
                break
    outer = {split[:-1] for splits in found.values() for split in splits}
    for folder in folders:
        if folder[:-1] in outer and (kind := split_kind(folder[-1])):
            found[kind].add(folder)
    for kind, places in sorted(found.items()):
        if len(places) > 1:
            first, second = sorted(map(_text, places))[:2]
            raise SacdError(
                f"layout: {first} and {second} are both {kind} folders; expected is {EXPECTED}."
            )
    return {kind: found[kind].pop() for kind in ("train", "val", "test") if kind in found}


def _with_splits(
    images: list[str], names: list[str], splits: dict[str, Folder], read: Read
) -> Layout:
    tops = ", ".join(_text(top) for top in splits.values())
    outside = [n for n in images if not any(_is_below(n, top) for top in splits.values())]
    layout = Layout([], [(Entry(name, "", ""), f"lies outside {tops}") for name in outside])
    known: set[str] = set()
    for kind, top in splits.items():
        below = {name: _folder(name)[len(top) :] for name in images if _is_below(name, top)}
        below = _without_inner(below)
        flat = [name for name, rest in below.items() if not rest]
        if len(flat) < len(below):
            deep = next((name for name, rest in below.items() if len(rest) > 1), None)
            if deep:
                raise SacdError(
                    f"layout: {deep} lies deeper than a class folder of {_text(top)}; expected is "
                    f"{EXPECTED}."
                )
            classes = {name: rest[0] for name, rest in below.items() if rest}
            layout.left_out += [(Entry(n, kind, ""), "lies in no class folder") for n in flat]
        else:
            classes = from_lists(flat, names, known, kind, read)
            if not classes and kind != "test":
                raise SacdError(
                    f"layout: {_text(top)} holds {len(flat)} images but no class folders, and no "
                    f"list with their classes is beside it; expected is {EXPECTED}."
                )
        if known and not known & set(classes.values()):
            if kind == "test":
                continue  # without true classes, in a folder for form's sake
            raise SacdError(
                f"layout: {_text(top)} and {_text(splits['train'])} have no class in common; "
                f"expected is {EXPECTED}."
            )
        known |= set(classes.values()) if kind == "train" else set()
        layout.entries += [Entry(name, kind, label) for name, label in classes.items()]
        layout.left_out += _unread(names, top, kind)
    if not layout.entries:
        raise SacdError(f"layout: {tops}: images without classes; expected is {EXPECTED}.")
    return layout


def _without_splits(images: list[str], names: list[str]) -> Layout:
    below = {name: _folder(name) for name in images}
    if all(len(folder) > 1 for folder in below.values()):
        below = _without_inner(below)
    folders = set(below.values())
    kinds = {_text(folder): _no_class(folder[-1]) for folder in folders}
    if all(kinds.values()) or len(set(kinds.values()) - {""}) > 1:
        flat = ", ".join(sorted(name for name, kind in kinds.items() if kind))
        raise SacdError(
            f"layout: {flat}: images but no class folders in it; expected is {EXPECTED}."
        )
    outer = sorted({folder[:-1] for folder in folders})
    if len(outer) > 1:
        one, other = (_text(min(f for f in folders if f[:-1] == o)) for o in outer[:2])
        raise SacdError(
            f"layout: images lie in {one} and in {other}, so which folder is the class cannot be "
            f"told; expected is {EXPECTED}."
        )
    return Layout(
        [Entry(name, "", folder[-1]) for name, folder in below.items()],
        _unread(names, outer[0], ""),
    )


def _no_class(folder: str) -> str:
    """What a folder's name says instead of a class: a split or just that it holds images."""
    return split_kind(folder) or (folder if folder.lower() in INNER else "")


def _unread(names: list[str], top: Folder, split: str) -> list[tuple[Entry, str]]:
    """Files in class folders below `top` that are neither images nor known to be something else."""
    found = []
    for name in names:
        kind = suffix(name)
        if kind in EXTENSIONS or kind in KNOWN:
            continue
        folder = _folder(name)
        if len(folder) == len(top) + 2 and folder[-1].lower() in INNER:
            folder = folder[:-1]
        if len(folder) == len(top) + 1 and folder[:-1] == top:
            found.append((Entry(name, split, folder[-1]), _why(name)))
    return found


def _why(name: str) -> str:
    kind = suffix(name)
    return f"type {kind} is not read" if kind else "without a suffix: type not known"


def _without_inner(below: dict[str, Folder]) -> dict[str, Folder]:
    """Folders less the last part, where that is `images` or alike in every one of them."""
    last = {folder[-1] if folder else "" for folder in below.values()}
    inner = len(last) == 1 and last.pop().lower() in INNER
    return {name: folder[:-1] for name, folder in below.items()} if inner else below


def _is_below(name: str, top: Folder) -> bool:
    return _folder(name)[: len(top)] == top


def _text(folder: Folder) -> str:
    return "/".join(folder) + "/"
