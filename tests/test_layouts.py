"""Which folder is the class and which the split: read right, or refused by what was found."""

import json
from pathlib import Path

import pytest
from pictures import picture

from sacd.errors import SacdError
from sacd.images.collection import Collection

COUNTS = {"train": 4, "val": 2, "test": 2}


def build(folder: Path, *layout: str, count: int = 6) -> Path:
    """`count` pictures, no two alike, for each path with a star in it; other paths are texts."""
    for number, path in enumerate(layout):
        for index in range(count):
            file = folder / path.replace("*", f"{index:02d}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(1000 * number + index))
    return folder


def splits(source: Path, classes="all") -> dict[str, dict[str, set[str]]]:
    """Split -> class -> the paths that it may take."""
    chosen = Collection(source).choose(classes, COUNTS, 0)
    return {
        split: {name: {entry.path for entry in pool} for name, pool in pools.items()}
        for split, pools in chosen.items()
    }


def paths(pattern: str, count: int = 6) -> set[str]:
    return {pattern.replace("*", f"{index:02d}") for index in range(count)}


class TestSplitFolders:
    @pytest.mark.parametrize(
        ("train", "val"),
        [
            ("train", "valid"), ("Train", "Val"), ("training", "validation"), ("TRAIN", "test"),
            ("out/train_set", "out/test_set"), ("train2017", "val2017"),
            ("training_set/training_set", "test_set/test_set"),
        ],
    )  # fmt: skip
    def test_names_that_people_use(self, tmp_path: Path, train: str, val: str):
        layout = [f"{split}/{name}/*.png" for split in (train, val) for name in ("ant", "bee")]
        found = splits(build(tmp_path, *layout))
        for name in ("ant", "bee"):
            assert found["train"][name] == paths(f"{train}/{name}/*.png")
            assert found["test"][name] | found["val"][name] == paths(f"{val}/{name}/*.png")
            assert not found["test"][name] & found["val"][name]

    def test_three_folders_are_the_three_splits(self, tmp_path: Path):
        build(tmp_path, *(f"{s}/{n}/*.png" for s in ("train", "valid", "test") for n in "ab"))
        found = splits(tmp_path)
        assert found["test"]["a"] == paths("test/a/*.png")
        assert found["val"]["b"] == paths("valid/b/*.png")
        assert found["train"]["b"] == paths("train/b/*.png")

    @pytest.mark.parametrize("test", ["test/*.png", "test/unknown/*.png", "test/images/*.png"])
    def test_a_test_folder_without_classes_is_left_alone(self, tmp_path: Path, test: str):
        build(tmp_path, test, *(f"{s}/{n}/*.png" for s in ("train", "val") for n in "ab"))
        collection = Collection(tmp_path)
        assert {entry.split for entry in collection.entries} == {"train", "val"}
        assert collection.left_out == []

    def test_a_class_may_be_called_like_a_split(self, tmp_path: Path):
        build(tmp_path, *(f"{s}/{n}/*.png" for s in ("train", "val") for n in ("train", "ship")))
        found = splits(tmp_path)
        assert found["train"]["train"] == paths("train/train/*.png")
        assert found["train"]["ship"] == paths("train/ship/*.png")

    def test_images_outside_the_splits_are_listed(self, tmp_path: Path):
        build(tmp_path, "more/a/*.png", *(f"{s}/a/*.png" for s in ("train", "val")), count=3)
        left_out = Collection(tmp_path).left_out
        assert [entry.path for entry, _ in left_out] == [f"more/a/0{i}.png" for i in range(3)]
        assert left_out[0][1] == "lies outside train/, val/"

    def test_so_are_those_beside_class_folders(self, tmp_path: Path):
        build(tmp_path, "train/z*.png", "train/a/*.png", "val/a/*.png", count=2)
        collection = Collection(tmp_path)
        assert [(entry.path, why) for entry, why in collection.left_out] == [
            (f"train/z0{index}.png", "lies in no class folder") for index in range(2)
        ]
        assert {entry.class_name for entry in collection.entries} == {"a"}

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            (["train/a/*.png", "train/b/*.png"], "only train is there"),
            (["test/a/*.png", "test/b/*.png"], "only test is there"),
            (["train/a/*.png", "test/*.png"], "only train is there"),
            (["train/*.png", "test1/*.png"], r"test1/, train/: images but no class folders"),
            (["train/a/*.png", "val/*.png"], "val/ holds 6 images but no class folders"),
            (["train/a/*.png", "val/b/*.png"], "val/ and train/ have no class in common"),
            (["train/a/*.png", "val/a/*.png", "valid/a/*.png"], "val/ and valid/ are both val"),
            (["a/train/x/*.png", "b/train/x/*.png"], "a/train/ and b/train/ are both train"),
            (["a/train/*.png", "a/test/*.png"], "no class folders"),
            (["train/x/a/*.png", "val/x/a/*.png"], "train/x/a/00.png lies deeper"),
            (["a/day1/*.png", "b/day1/*.png"], "images lie in a/day1/ and in b/day1/"),
            (["a/*.png", "a/more/*.png"], "images lie in a/ and in a/more/"),
            (["test/images/*.png"], "test/: images without classes"),
            (["images/*.png"], "images/: images but no class folders"),
            (["*.png"], "no images in ImageFolder layout"),
        ],
    )
    def test_what_cannot_be_told_is_refused(self, tmp_path: Path, layout, message: str):
        with pytest.raises(SacdError, match=rf"images\.source: .*{message}.*<class>/<image>"):
            splits(build(tmp_path, *layout))


class TestLists:
    def tree(self, folder: Path) -> Path:
        return build(folder, "train/ant/*.png", "train/bee/*.png", "val/v*.png")

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("val/val_annotations.txt", "v{:02d}.png\t{}\t0\t0\t9\t9"),
            ("LOC_val_solution.csv", "v{:02d},{} 1 2 3 4"),
            ("lists/validation.txt", "val/v{:02d}.png {}"),
        ],
    )
    def test_one_beside_gives_the_classes(self, tmp_path: Path, name: str, line: str):
        file = self.tree(tmp_path) / name
        file.parent.mkdir(exist_ok=True)
        rows = [line.format(index, "ant" if index < 2 else "bee") for index in range(6)]
        file.write_text("\n".join(["a heading", *rows]))
        found = splits(tmp_path)
        assert found["test"]["ant"] | found["val"]["ant"] == {"val/v00.png", "val/v01.png"}
        assert found["train"]["bee"] == paths("train/bee/*.png")

    @pytest.mark.parametrize("line", ["v{:02d}.png 1", "v{:02d}.png wasp", "{:02d} ant"])
    def test_one_that_does_not_fit_is_none(self, tmp_path: Path, line: str):
        rows = [line.format(index) for index in range(6)]
        (self.tree(tmp_path) / "val.txt").write_text("\n".join(rows))
        with pytest.raises(SacdError, match="no list with their classes"):
            Collection(tmp_path)

    def test_images_folders_inside_the_classes(self, tmp_path: Path):
        build(tmp_path, *(f"train/{n}/images/*.png" for n in ("ant", "bee")), "val/images/v*.png")
        rows = [f"v{index:02d}.png\t{'ant' if index % 2 else 'bee'}" for index in range(6)]
        (tmp_path / "val/val_annotations.txt").write_text("\n".join(rows))
        found = splits(tmp_path)
        assert found["train"]["ant"] == paths("train/ant/images/*.png")
        assert "val/images/v01.png" in found["test"]["ant"] | found["val"]["ant"]


class TestMetadata:
    def write(self, file: Path, rows: list[dict]) -> None:
        if file.suffix == ".csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        else:
            lines = [json.dumps(row) for row in rows]
        file.write_text("\n".join(lines) + "\n")

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    @pytest.mark.parametrize("split", [True, False])
    def test_its_labels_are_the_classes(self, tmp_path: Path, kind: str, split: bool):
        folders = ("train", "validation") if split else ("pictures",)
        build(tmp_path, *(f"{folder}/*.png" for folder in folders), count=8)
        for folder in folders:
            where = tmp_path / folder if split else tmp_path
            start = "" if split else f"{folder}/"
            rows = [{"file_name": f"{start}{i:02d}.png", "label": i % 2} for i in range(8)]
            self.write(where / f"metadata.{kind}", rows)
        found = splits(tmp_path)
        even = {f"{folders[-1]}/0{i}.png" for i in range(0, 8, 2)}
        assert found["test"]["0"] | found["val"]["0"] <= even
        assert set(found["train"]) == {"0", "1"}
        if split:
            assert found["train"]["0"] == {f"train/0{i}.png" for i in range(0, 8, 2)}

    def test_without_labels_it_says_nothing(self, tmp_path: Path):
        build(tmp_path, "train/*.png", "test/*.png")
        rows = [{"file_name": f"0{i}.png", "text": "an ant"} for i in range(6)]
        self.write(tmp_path / "train/metadata.csv", rows)
        with pytest.raises(SacdError, match="test/, train/: images but no class folders"):
            Collection(tmp_path)

    def test_an_image_that_it_lacks_is_named(self, tmp_path: Path):
        build(tmp_path, "train/*.png")
        rows = [{"file_name": f"0{i}.png", "label": "ant"} for i in range(5)]
        self.write(tmp_path / "train/metadata.csv", rows)
        with pytest.raises(SacdError, match=r"metadata .* none for train/05\.png"):
            Collection(tmp_path)

    def test_files_of_types_that_are_not_read_are_left_out(self, tmp_path: Path):
        build(tmp_path, "p/*.png", "p/x*.heic", count=2)
        rows = [{"file_name": f"p/{n}", "label": "ant"} for n in ("00.png", "01.png", "x00.heic")]
        self.write(tmp_path / "metadata.csv", rows)
        left_out = Collection(tmp_path).left_out
        assert [(e.path, e.class_name, why) for e, why in left_out] == [
            ("p/x00.heic", "ant", "type .heic is not read")
        ]

    def test_a_broken_one_is_one_message(self, tmp_path: Path):
        build(tmp_path, "train/*.png")
        (tmp_path / "train/metadata.jsonl").write_text('{"file_name": ')
        with pytest.raises(SacdError, match=r"images\.source: .*classes cannot be read"):
            Collection(tmp_path)


class TestOtherTypes:
    def test_a_class_that_has_nothing_else_is_refused(self, tmp_path: Path):
        build(tmp_path, "ant/*.png", "bee/*.png", "cow/*.heic")
        with pytest.raises(SacdError, match=r"class 'cow' .*but 6 \.heic; convert"):
            splits(tmp_path)
        assert set(splits(tmp_path, ["ant", "bee"])["train"]) == {"ant", "bee"}

    def test_those_beside_images_are_left_out_with_their_type(self, tmp_path: Path):
        build(tmp_path, "ant/*.png", "ant/x*.avif", "ant/noname*", "bee/*.tif", count=2)
        collection = Collection(tmp_path)
        assert [(entry.path, why) for entry, why in collection.left_out] == [
            ("ant/noname00", "without a suffix: type not known"),
            ("ant/noname01", "without a suffix: type not known"),
            ("ant/x00.avif", "type .avif is not read"),
            ("ant/x01.avif", "type .avif is not read"),
        ]
        assert {entry.class_name for entry in collection.entries} == {"ant", "bee"}

    def test_a_collection_of_nothing_else_says_what_it_has(self, tmp_path: Path):
        build(tmp_path, "ant/*.psd", "bee/*.svg", count=3)
        with pytest.raises(SacdError, match=r"found: 3 \.psd, 3 \.svg\."):
            Collection(tmp_path)
