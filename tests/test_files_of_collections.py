"""Which files a collection reads: links once, none that systems leave behind, none without end."""

import io
import os
import re
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pictures import picture

from sacd.errors import SacdError
from sacd.images import archives
from sacd.images.collection import Collection, Unusable

NAMES = [f"{name}/{index}.png" for name in ("ant", "bee") for index in range(5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(picture(number))
    return tmp_path / "photos"


def found(source: Path) -> list[str]:
    return [entry.path for entry in Collection(source).entries]


def left_out(source: Path) -> dict[str, str]:
    return {entry.path: reason for entry, reason in Collection(source).left_out}


class TestSideFiles:
    SIDE = (
        "__MACOSX/ant/._0.png", "ant/._0.png", "@eaDir/ant/0.png", "ant/@eaDir/0.png@x/a.jpg",
        ".ipynb_checkpoints/0.png", "bee/.ipynb_checkpoints/0-checkpoint.png", "bee/Thumbs.db",
        ".Trash/bee/3.png", "ant/.DS_Store",
    )  # fmt: skip

    def test_a_folder_is_read_without_them(self, folder: Path):
        for name in self.SIDE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(picture(99))
        (folder / ".empty").mkdir()
        assert found(folder) == NAMES
        assert left_out(folder) == {}

    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_so_is_an_archive(self, tmp_path: Path, kind: str):
        content = {name: picture(number) for number, name in enumerate([*NAMES, *self.SIDE])}
        path = pack(tmp_path / f"photos.{kind}", content)
        assert found(path) == NAMES
        assert left_out(path) == {}


def pack(path: Path, content: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w") as archive:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


class TestLinks:
    @pytest.mark.parametrize("target", [".", "..", "../..", "../bee", "../../photos/bee"])
    def test_one_to_a_folder_that_is_read_adds_nothing(self, folder: Path, target: str):
        (folder / "ant/a_link").symlink_to(target)
        assert found(folder) == NAMES
        assert list(left_out(folder)) == ["ant/a_link/"]
        assert left_out(folder)["ant/a_link/"].startswith("a link to ")

    def test_what_is_there_itself_goes_before_links(self, folder: Path):
        (folder / "aaa").symlink_to("bee")
        (folder / "ant/0a.png").symlink_to("../bee/4.png")
        assert found(folder) == NAMES
        assert left_out(folder) == {"aaa/": "a link to bee", "ant/0a.png": "a link to bee/4.png"}

    def test_one_that_leads_elsewhere_is_followed_once(self, folder: Path, tmp_path: Path):
        (tmp_path / "far/deep").mkdir(parents=True)
        (tmp_path / "far/deep/1.png").write_bytes(picture(50))
        (tmp_path / "far/deep/back").symlink_to(tmp_path)
        (tmp_path / "far/deep/near.png").symlink_to("1.png")
        for name in ("cow", "doe"):
            (folder / name).symlink_to(tmp_path / "far/deep")
        assert found(folder) == [*NAMES, "cow/1.png"]
        assert left_out(folder) == {
            "doe/": "a link to cow",
            "cow/back/": "a link to a folder around this one",
            "cow/near.png": "a link to cow/1.png",
        }

    def test_a_class_of_links_to_single_files_is_read(self, folder: Path, tmp_path: Path):
        (folder / "cow").mkdir()
        for index in range(3):
            (tmp_path / f"{index}.png").write_bytes(picture(60 + index))
            (folder / f"cow/{index}.png").symlink_to(tmp_path / f"{index}.png")
        assert found(folder) == [*NAMES, *(f"cow/{index}.png" for index in range(3))]

    def test_those_in_a_tar_are_left_out(self, tmp_path: Path):
        path = pack(tmp_path / "photos.tar", {name: picture(1) for name in NAMES})
        with tarfile.open(path, "a") as archive:
            for name, kind in {"ant/hard.png": tarfile.LNKTYPE, "cow": tarfile.SYMTYPE}.items():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "bee"
                archive.addfile(member)
        assert found(path) == NAMES
        assert left_out(path) == {"ant/hard.png": "a link to bee", "cow": "a link to bee"}


class TestNoRegularFiles:
    def test_they_are_unusable_and_nobody_waits_for_them(self, folder: Path):
        os.mkfifo(folder / "ant/pipe.png")
        (folder / "ant/self.png").symlink_to("self.png")
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(folder)  # a socket's path must be short
            listener.bind("ant/socket.png")
            os.chdir(here)
        (folder / "ant/zero.png").symlink_to("/dev/zero")
        collection = Collection(folder)
        for name in ("pipe", "self", "socket", "zero"):
            with pytest.raises(Unusable, match=r"no regular file|unreadable: "):
                collection.read(f"ant/{name}.png")

    def test_nor_is_one_a_collection(self, tmp_path: Path):
        os.mkfifo(tmp_path / "photos.tar")
        with pytest.raises(SacdError, match=r"photos\.tar: not a folder, tar or zip"):
            Collection(tmp_path / "photos.tar")


class TestLimits:
    @pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
    def test_a_file_larger_than_any_image_is_unusable(
        self, folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ):
        (folder / "ant/0.png").write_bytes(bytes(20_000))
        content = {name: (folder / name).read_bytes() for name in NAMES}
        source = folder if kind == "folder" else pack(tmp_path / f"photos.{kind}", content)
        monkeypatch.setattr(archives, "LARGEST_FILE", 19_999)
        collection = Collection(source)
        with pytest.raises(Unusable, match="too large: 20000 bytes, at most 19999 are read"):
            collection.read("ant/0.png")
        assert collection.read("ant/1.png") == content["ant/1.png"]

    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_an_archive_of_more_files_than_any_is_refused(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ):
        path = pack(tmp_path / f"photos.{kind}", {name: picture(0) for name in NAMES})
        monkeypatch.setattr(archives, "MOST_FILES", len(NAMES))
        assert len(Collection(path).entries) == len(NAMES)
        monkeypatch.setattr(archives, "MOST_FILES", len(NAMES) - 1)
        with pytest.raises(SacdError, match=rf"photos\.{kind}: more than 9 files"):
            Collection(path)

    def test_only_methods_that_unpack_within_bounds_are_read(self, tmp_path: Path):
        path = pack(tmp_path / "photos.zip", {"ant/0.png": picture(0)})
        with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
            archive.writestr("ant/1.png", picture(1))
        collection = Collection(path)
        assert collection.read("ant/0.png") == picture(0)
        with pytest.raises(Unusable, match="packed by a method other than deflate"):
            collection.read("ant/1.png")

    @pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
    def test_a_compressed_tar_is_refused_whatever_its_name(self, tmp_path: Path, kind: str):
        with tarfile.open(tmp_path / "photos.tar", f"w:{kind}") as archive:
            archive.add(__file__, "ant/0.png")
        with pytest.raises(SacdError, match=r"compressed as a whole.*tar -xf photos\.tar -C"):
            Collection(tmp_path / "photos.tar")


class TestStage:
    """The stage on photographs whose names and contents are unusual."""

    @pytest.fixture
    def prepare(self, folder: Path, in_experiment: Callable, call_stage: Callable, fixture_params):
        """Runs prepare_images on all that is in `folder`; status, message and experiment."""
        fixture_params["images"] = {
            "source": str(folder), "size": 32, "classes": "all", "max_skipped": 0.5,
            "per_class": {"train": 2, "val": 1, "test": 2},
        }  # fmt: skip
        fixture_params["segmenters"] = {}
        fixture_params["compare"]["segmenters"] = []
        fixture_params["prior"] = {"source": "pretrained/prior", "autoencoder": None, "unet": None}
        for backbone in fixture_params["backbones"].values():
            backbone["training"]["dense"] = False

        def run() -> tuple[int, str, Path]:
            where = in_experiment(fixture_params)
            return *call_stage("prepare_images"), where

        return run

    def test_any_name_works(self, folder: Path, prepare: Callable):
        odd = ["<b>x.png", "$a$_$.png", "two\nlines.png", 'a,"b".png', os.fsdecode(b"caf\xe9.png")]
        for index, name in enumerate(odd):
            (folder / "ant" / f"{index}.png").rename(folder / "ant" / name)
        (folder / "ant").rename(folder / "a<i>$n$t")
        status, message, experiment = prepare()
        assert status == 0, message
        table = pd.read_parquet(experiment / "data/manifest.parquet")
        shown = {"<b>x", "$a$_$", r"two\x0alines", 'a,"b"', r"caf\xe9"}
        names = set(table.image_id[table.class_name == "a<i>$n$t"])
        assert names == {f"a<i>$n$t/{name}.png" for name in shown}
        assert (experiment / "data/skipped.csv").read_text() == "path,reason\n"

    def test_the_same_picture_in_two_splits_is_taken_once(self, folder: Path, prepare: Callable):
        for index in range(24):
            (folder / f"{('ant', 'bee')[index % 2]}/{index // 2}.png").write_bytes(
                picture(index // 2)
            )
        status, message, experiment = prepare()
        assert status == 0, message
        table = pd.read_parquet(experiment / "data/manifest.parquet")
        assert not table.groupby("sha256").split.nunique().gt(1).any()
        skipped = pd.read_csv(experiment / "data/skipped.csv")
        assert len(skipped)
        for row in skipped.itertuples():
            other, split = re.fullmatch(
                "the same picture as (.*) of split (.*)", row.reason
            ).groups()
            first, second = (folder / name for name in (row.path, other))
            assert first.read_bytes() == second.read_bytes()
            assert table.split[table.image_id == other].tolist() == [split]

    def test_where_too_few_are_left_both_are_named(self, folder: Path, prepare: Callable):
        for name in NAMES[1:5]:
            (folder / name).write_bytes(picture(0))
        status, message, _ = prepare()
        assert status == 1
        assert "class 'ant' has 0 usable val images" in message
        assert re.search(r"  ant/\d\.png: the same picture as ant/\d\.png of split train", message)

    def test_what_is_left_out_is_counted_and_listed(self, folder: Path, prepare: Callable):
        (folder / "bee/x.avif").write_bytes(b"?")
        (folder / "bee/ant").symlink_to("../ant")
        status, message, experiment = prepare()
        assert status == 0, message
        skipped = pd.read_csv(experiment / "data/skipped.csv").set_index("path").reason.to_dict()
        assert skipped == {"bee/ant/": "a link to ant", "bee/x.avif": "type .avif is not read"}

    def test_a_pipe_that_is_needed_is_skipped(self, folder: Path, prepare: Callable):
        os.mkfifo(folder / "ant/pipe.png")
        (folder / "ant/0.png").unlink()
        status, message, _ = prepare()
        assert status == 1
        assert "ant/pipe.png: no regular file" in message
