"""ImageNet as its authors hand it out (ILSVRC 2012): two archives and the development kit.

`ILSVRC2012_img_train.tar` holds a tar for each class, `ILSVRC2012_img_val.tar` all validation
images, whose classes the kit tells (`ILSVRC2012_devkit_t12.tar.gz`). They are read as they
are: unpacked they would be 1.3 million files, which a cluster's file system takes badly.
"""

import re
import tarfile
import zlib
from io import BytesIO
from pathlib import Path, PurePosixPath

from sacd.errors import SacdError
from sacd.images.archives import Files, files_in, require_small

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"  # the number of each image's class, by line
CLASSES = "data/meta.mat"  # the WordNet id of each number

Place = tuple[Path, int, int]  # an archive, and where in it a file's bytes begin and how many


def is_official(source: Path) -> bool:
    """Whether a folder holds the archive of training images."""
    return (source / TRAIN).is_file()


def open_official(source: Path) -> Files:
    """Names in ImageFolder layout (`train/<wnid>/<file>`, `val/<wnid>/<file>`), and their reader.

    Raises `SacdError` where one of the three files is missing or not what its name says.
    """
    for name in (VAL, KIT):
        if not (source / name).is_file():
            raise SacdError(f"{source}: has {TRAIN} but no {name}.")
    try:
        places = _train_places(source / TRAIN) | _val_places(source / VAL, _val_classes(source))
    except (tarfile.TarError, OSError, EOFError, LookupError, ValueError, zlib.error) as error:
        raise SacdError(f"{source}: not ImageNet's archives ({error}).") from error

    def read(name: str) -> bytes:
        archive, start, size = places[name]
        require_small(size)
        with archive.open("rb") as file:
            file.seek(start)
            return file.read(size)

    return Files(list(places), read)


def _train_places(path: Path) -> dict[str, Place]:
    places = {}
    with tarfile.open(path, "r:") as archive:
        for part in files_in(archive, path):
            class_id = PurePosixPath(part.name).stem
            with tarfile.open(fileobj=archive.extractfile(part), mode="r:") as images:
                for image in files_in(images, path / part.name):
                    start = part.offset_data + image.offset_data
                    places[f"train/{class_id}/{image.name}"] = (path, start, image.size)
    return places


def _val_places(path: Path, classes: list[str]) -> dict[str, Place]:
    places = {}
    with tarfile.open(path, "r:") as archive:
        for image in files_in(archive, path):
            name = PurePosixPath(image.name).name
            number = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
            if number is None:
                raise ValueError(f"{path.name} has a file '{image.name}'")
            class_id = classes[int(number[1]) - 1]
            places[f"val/{class_id}/{name}"] = (path, image.offset_data, image.size)
    return places


def _val_classes(source: Path) -> list[str]:
    """The WordNet id of every validation image, in the order of their numbers."""
    # A third of a second, for this layout alone.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with tarfile.open(source / KIT) as kit:
        texts = {}
        for member in kit:
            for wanted in (TRUTH, CLASSES):
                if member.name.endswith(wanted) and (file := kit.extractfile(member)):
                    require_small(member.size)
                    texts[wanted] = file.read()
    try:
        synsets = loadmat(BytesIO(texts[CLASSES]), squeeze_me=True)["synsets"]
    except MatReadError as error:
        raise ValueError(f"{CLASSES} in {KIT}: {error}") from error
    ids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    return [ids[int(line)] for line in texts[TRUTH].split()]
