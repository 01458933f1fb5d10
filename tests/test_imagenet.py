"""ImageNet's own archives, against the same pictures in folders."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import picture
from scipy.io import savemat

from sacd.errors import SacdError
from sacd.images.collection import Collection


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """ImageNet's own archives, of two classes: val images 1, 3, ... are of the second one."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as archive:
        for number, name in enumerate(("n01440764", "n02102040")):
            part = io.BytesIO()
            with tarfile.open(fileobj=part, mode="w") as images:
                for index in range(8):
                    add(images, f"{name}_{index}.JPEG", picture(100 * number + index, "JPEG"))
            add(archive, f"{name}.tar", part.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for index in range(1, 21):
            add(archive, f"ILSVRC2012_val_{index:08d}.JPEG", picture(1000 + index, "JPEG"))
    numbers = io.BytesIO()
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object)])
    synsets = np.array([(7, "n01440764"), (2, "n02102040")], kind)  # not in the order of the ids
    savemat(numbers, {"synsets": synsets})
    write_kit(folder, numbers.getvalue())
    return folder


def write_kit(folder: Path, synsets: bytes) -> None:
    truth = "".join("2\n" if index % 2 else "7\n" for index in range(1, 21))
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        top = "ILSVRC2012_devkit_t12/data"
        add(kit, f"{top}/meta.mat", synsets)
        add(kit, f"{top}/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


class TestImageNetArchives:
    def test_they_are_read_as_the_unpacked_folders_would_be(self, official: Path):
        collection = Collection(official)
        for number, name in enumerate(("n01440764", "n02102040")):
            for index in range(8):
                path = f"train/{name}/{name}_{index}.JPEG"
                assert collection.read(path) == picture(100 * number + index, "JPEG")
        for index in range(1, 21):
            name = "n02102040" if index % 2 else "n01440764"
            path = f"val/{name}/ILSVRC2012_val_{index:08d}.JPEG"
            assert collection.read(path) == picture(1000 + index, "JPEG")
        assert len(collection.entries) == 36

        unpacked = official.parent / "unpacked"
        for entry in collection.entries:
            (unpacked / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / entry.path).write_bytes(collection.read(entry.path))
        assert Collection(unpacked).entries == collection.entries

    @pytest.mark.parametrize("name", ["ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
    def test_a_missing_one_is_named(self, official: Path, name: str):
        (official / name).unlink()
        with pytest.raises(SacdError, match=rf"ILSVRC2012_img_train\.tar but no {name}"):
            Collection(official)

    @pytest.mark.parametrize(
        "name",
        ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"],
    )
    def test_a_cut_one_is_named(self, official: Path, name: str):
        content = (official / name).read_bytes()
        (official / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(SacdError, match=r"images\.source: .*imagenet"):
            Collection(official)

    @pytest.mark.parametrize("synsets", [b"", b"junk", bytes(200)])
    def test_a_kit_whose_table_is_none(self, official: Path, synsets: bytes):
        write_kit(official, synsets)
        with pytest.raises(SacdError, match=r"images\.source: .*imagenet"):
            Collection(official)
