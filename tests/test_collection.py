"""Photographs from folders and archives: which are chosen, how they are read, what is refused."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from sacd.errors import SacdError
from sacd.images.collection import SMALLEST, Collection, Unusable, load_square

COUNTS = {"train": 6, "val": 3, "test": 4}


def fill(folder: Path, layout: dict[str, int]) -> Path:
    """Write `count` pictures into each folder of `layout`."""
    for number, (name, count) in enumerate(layout.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (folder / name / f"{index:03d}.png").write_bytes(picture(1000 * number + index))
    return folder


def packed(folder: Path, kind: str) -> Path:
    """The folder as an archive beside it, with the same paths inside."""
    path = folder.with_suffix(f".{kind}")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {file: file.relative_to(folder).as_posix() for file in files}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in names.items():
                archive.write(file, name)
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
            for file, name in reversed(names.items()):  # the order inside must not matter
                archive.add(file, name)
    return path


@pytest.fixture
def with_splits(tmp_path: Path) -> Path:
    layout = {f"set/{split}/{name}": 20 for split in ("train", "val") for name in ("cat", "dog")}
    return fill(tmp_path / "photos", layout)


@pytest.fixture
def without_splits(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", {"cat": 40, "dog": 40})


def taken(collection: Collection, counts: dict[str, int], classes="all", seed=0) -> dict[str, str]:
    """Path -> split of the first images of each pool, as many as are asked for."""
    chosen = collection.choose(classes, counts, seed)
    return {
        entry.path: split
        for split, pools in chosen.items()
        for entries in pools.values()
        for entry in entries[: counts[split]]
    }


class TestSources:
    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_an_archive_gives_what_its_folder_gives(self, with_splits: Path, kind: str):
        folder, archive = Collection(with_splits), Collection(packed(with_splits, kind))
        assert archive.entries == folder.entries
        assert archive.choose("all", COUNTS, 3) == folder.choose("all", COUNTS, 3)
        for entry in folder.entries[::17]:
            assert archive.read(entry.path) == folder.read(entry.path)

    def test_a_tar_compressed_as_a_whole_is_refused_with_the_way_out(self, with_splits: Path):
        archive = packed(with_splits, "tar.gz")
        with pytest.raises(
            SacdError, match=r"photos\.tar\.gz: compressed .*tar -xf photos\.tar\.gz"
        ):
            Collection(archive)

    def test_split_and_class_come_from_the_path(self, with_splits: Path):
        entries = Collection(with_splits).entries
        assert len(entries) == 80
        assert entries[0].path == "set/train/cat/000.png"
        assert {(e.split, e.class_name) for e in entries} == {
            (split, name) for split in ("train", "val") for name in ("cat", "dog")
        }

    def test_other_files_are_not_images(self, without_splits: Path):
        (without_splits / "cat/notes.txt").write_text("no image")
        (without_splits / "cover.png").write_bytes(picture(0))  # in no class
        (without_splits / "cat/UPPER.PNG").write_bytes(picture(1))
        paths = [entry.path for entry in Collection(without_splits).entries]
        assert "cat/UPPER.PNG" in paths
        assert len(paths) == 81

    def test_a_missing_source_is_named(self, tmp_path: Path):
        with pytest.raises(
            SacdError, match=r"images\.source: .*absent\.tar: no such folder or arch"
        ):
            Collection(tmp_path / "absent.tar")

    @pytest.mark.parametrize("content", [b"", b"neither tar nor zip", picture(0)])
    def test_a_file_that_is_no_archive_is_named(self, tmp_path: Path, content: bytes):
        (tmp_path / "photos.tar").write_bytes(content)
        with pytest.raises(SacdError, match=r"photos\.tar: "):
            Collection(tmp_path / "photos.tar")

    @pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
    def test_a_truncated_archive_is_named(self, with_splits: Path, kind: str):
        archive = packed(with_splits, kind)
        content = archive.read_bytes()
        archive.write_bytes(content[: len(content) // 2])
        with pytest.raises(SacdError, match=rf"images\.source: .*photos\.{kind}: "):
            Collection(archive)

    @pytest.mark.parametrize("damage", ["header", "cut between files"])
    def test_a_tar_that_ends_in_the_middle_is_named(self, with_splits: Path, damage: str):
        archive = packed(with_splits, "tar")
        with tarfile.open(archive) as file:
            start = file.getmembers()[30].offset
        content = bytearray(archive.read_bytes())
        content[start + 148 : start + 156] = b"damaged!"  # the header's checksum
        archive.write_bytes(content if damage == "header" else content[:start])
        expected = r"^disturbances\.far\.source: .*photos\.tar: damaged or cut off after 30 files"
        with pytest.raises(SacdError, match=expected):
            Collection(archive, "disturbances.far.source")

    def test_a_zip_with_a_broken_directory_is_named(self, with_splits: Path):
        archive = packed(with_splits, "zip")
        content = archive.read_bytes()
        archive.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x00"))
        with pytest.raises(SacdError, match=r"photos\.zip: not a folder, tar or zip"):
            Collection(archive)

    def test_encrypted_files_are_unusable(self, with_splits: Path):
        archive = packed(with_splits, "zip")
        content = bytearray(archive.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags' place
            start = content.find(mark)
            while start >= 0:
                content[start + place] |= 1
                start = content.find(mark, start + 4)
        archive.write_bytes(content)
        collection = Collection(archive)
        with pytest.raises(Unusable, match=r"unreadable: .*encrypted"):
            collection.read(collection.entries[0].path)

    def test_a_folder_without_images_tells_the_layout(self, tmp_path: Path):
        (tmp_path / "photos/cat").mkdir(parents=True)
        (tmp_path / "photos/cat/notes.txt").write_text("no image")
        with pytest.raises(
            SacdError, match=r"photos: no images in ImageFolder layout \(train/<class>"
        ):
            Collection(tmp_path / "photos")


class TestChoice:
    def test_the_seed_decides(self, without_splits: Path):
        collection = Collection(without_splits)
        first = collection.choose("all", COUNTS, 1)
        assert first == Collection(without_splits).choose("all", COUNTS, 1)
        assert first != collection.choose("all", COUNTS, 2)

    @pytest.mark.parametrize("layout", ["with_splits", "without_splits"])
    def test_splits_share_no_image_and_have_enough(self, layout: str, request):
        chosen = Collection(request.getfixturevalue(layout)).choose("all", COUNTS, 0)
        paths = [e.path for pools in chosen.values() for pool in pools.values() for e in pool]
        assert len(set(paths)) == len(paths)
        for split, pools in chosen.items():
            for name, pool in pools.items():
                assert len(pool) > COUNTS[split], (split, name)  # some in reserve
                assert {entry.class_name for entry in pool} == {name}

    def test_no_image_is_in_reserve_while_train_lacks_it(self, tmp_path: Path):
        collection = Collection(fill(tmp_path / "photos", {"cat": 10}))
        chosen = collection.choose("all", {"train": 6, "val": 2, "test": 2}, 0)
        assert {s: len(pools["cat"]) for s, pools in chosen.items()} == {
            "train": 6, "val": 2, "test": 2,
        }  # fmt: skip

    def test_test_and_val_images_come_from_the_val_folder(self, with_splits: Path):
        splits = taken(Collection(with_splits), COUNTS)
        assert {split for path, split in splits.items() if "/train/" in path} == {"train"}
        assert {split for path, split in splits.items() if "/val/" in path} == {"val", "test"}

    @pytest.mark.parametrize("more", [1, 8])
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    @pytest.mark.parametrize("layout", ["with_splits", "without_splits"])
    def test_changing_one_count_moves_no_image_between_splits(
        self, layout: str, split: str, more: int, request
    ):
        collection = Collection(request.getfixturevalue(layout))
        before = taken(collection, COUNTS)
        after = taken(collection, {**COUNTS, split: COUNTS[split] + more})
        moved = {
            path: (before[path], after[path])
            for path in before.keys() & after.keys()
            if before[path] != after[path]
        }
        assert moved == {}
        assert len(after) == len(before) + 2 * more

    def test_images_of_one_class_do_not_depend_on_the_others(self, without_splits: Path):
        collection = Collection(without_splits)
        dogs = {path for path in taken(collection, COUNTS) if path.startswith("dog")}
        assert set(taken(collection, COUNTS, classes=["dog"])) == dogs

    def test_classes_by_number_list_and_all(self, without_splits: Path):
        collection = Collection(without_splits)
        assert list(collection.choose("all", COUNTS, 0)["test"]) == ["cat", "dog"]
        assert list(collection.choose(1, COUNTS, 0)["test"]) == ["cat"]
        assert list(collection.choose(["dog"], COUNTS, 0)["test"]) == ["dog"]

    def test_an_unknown_class_names_the_nearest(self, without_splits: Path):
        with pytest.raises(
            SacdError,
            match=r"images\.classes: unknown class 'dgo'\. Did you mean 'dog'\? Known: cat, dog\.",
        ):
            Collection(without_splits).choose(["cat", "dgo"], COUNTS, 0)

    def test_more_classes_than_there_are(self, without_splits: Path):
        with pytest.raises(SacdError, match=r"images\.classes: 3 asked for, .*photos has 2"):
            Collection(without_splits).choose(3, COUNTS, 0)


def halves(mode: str) -> bytes:
    """A picture whose left half is dark and right half bright, in a colour mode."""
    pixels = np.full((64, 64, 3), 40, np.uint8)
    pixels[:, 32:] = (200, 120, 240)
    image = Image.fromarray(pixels)
    kind = "PNG" if mode in ("L", "P", "RGBA", "LA") else "TIFF"
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


class TestLoading:
    @pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
    def test_every_colour_mode_becomes_rgb(self, mode: str):
        pixels, _, _ = load_square(halves(mode), 32)
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
        left, right = pixels[16, 4].astype(int), pixels[16, 28].astype(int)
        assert abs(left - 40).max() <= 10
        luminance = round(0.299 * 200 + 0.587 * 120 + 0.114 * 240)
        expected = (luminance,) * 3 if mode.startswith("L") else (200, 120, 240)
        assert abs(right - expected).max() <= 10

    def test_the_central_square_is_cut_and_resized(self):
        pixels = np.zeros((40, 100, 3), np.uint8)
        pixels[:, 30:50], pixels[:, 50:70], pixels[:, 70:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        square, size, box = load_square(buffer.getvalue(), 80)
        assert size == (100, 40)
        assert box == (30, 0, 70, 40)
        # Beside the edges, where the kernel mixes neighbours.
        assert square[:, 4:36].tolist() == [[[255, 0, 0]] * 32] * 80
        assert square[:, 44:76].tolist() == [[[0, 255, 0]] * 32] * 80

    def test_a_tall_picture_is_cut_above_and_below(self):
        _, size, box = load_square(picture(0, size=(33, 60)), 32)
        assert size == (33, 60)
        assert box == (0, 13, 33, 46)

    def test_a_picture_lies_upright_as_its_camera_says(self):
        upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 40, 3), np.uint8))
        lying, exif, file = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif(), io.BytesIO()
        exif[0x0112] = 6  # to be turned clockwise by a quarter
        lying.save(file, "PNG", exif=exif)
        square, size, box = load_square(file.getvalue(), 40)
        assert (size, box) == ((40, 60), (0, 10, 40, 50))
        assert np.array_equal(square, np.asarray(upright)[10:50])

    @pytest.mark.parametrize("size", [(SMALLEST - 1, 200), (200, SMALLEST - 1)])
    def test_tiny_pictures_are_unusable_with_their_size(self, size: tuple[int, int]):
        with pytest.raises(Unusable, match=rf"too small: {size[0]}x{size[1]} px, needs {SMALLEST}"):
            load_square(picture(0, size=size), 32)
        assert load_square(picture(0, size=(SMALLEST, SMALLEST)), 32)[1] == (SMALLEST, SMALLEST)

    @pytest.mark.parametrize("content", [b"", b"not a picture", picture(0)[:20]])
    def test_files_that_are_no_picture_are_unusable(self, content: bytes):
        with pytest.raises(Unusable, match="unreadable: "):
            load_square(content, 32)

    def test_the_reason_is_the_same_every_time(self):
        reasons = []
        for _ in range(2):
            with pytest.raises(Unusable) as caught:
                load_square(b"not a picture", 32)
            reasons.append(str(caught.value))
        assert reasons[0] == reasons[1]
        assert "object at 0x" not in reasons[0]  # it goes into a table that DVC hashes

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
    def test_a_truncated_picture_is_unusable(self, kind: str):
        content = picture(0, kind, size=(90, 80))
        with pytest.raises(Unusable, match="unreadable: "):
            load_square(content[: int(0.7 * len(content))], 32)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
    def test_a_damaged_picture_is_read_or_unusable_and_nothing_else(self, kind: str):
        content, rng = picture(0, kind, size=(90, 80)), np.random.default_rng(0)
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 4):
                damaged[place] = rng.integers(256)
            try:
                pixels, _, _ = load_square(bytes(damaged), 32)
            except Unusable:
                continue
            assert pixels.shape == (32, 32, 3)

    def test_a_picture_too_large_to_decode_is_unusable(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # refused above twice as many
        with pytest.raises(Unusable, match="unreadable: "):
            load_square(picture(0), 32)
