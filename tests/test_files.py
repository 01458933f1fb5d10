"""What is on disk is complete or absent."""

import json
import os
import stat
from pathlib import Path

import pytest

from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, digest, read_json, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestAtomic:
    def test_the_file_appears_when_the_block_is_done_and_not_before(self, tmp_path: Path):
        path = tmp_path / "deep/down/file.txt"
        with atomic(path) as temporary:
            temporary.write_text("new")
            assert not path.exists()
            assert temporary.parent == path.parent  # a rename within one file system
        assert path.read_text() == "new"
        assert names(path.parent) == ["file.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failure_leaves_the_old_file_and_no_temporary(self, tmp_path: Path, error):
        path = tmp_path / "file.txt"
        path.write_text("old")
        with pytest.raises(error), atomic(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "old"
        assert names(tmp_path) == ["file.txt"]

    def test_a_failure_leaves_the_old_folder_and_no_temporary(self, tmp_path: Path):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "kept").write_text("old")
        with pytest.raises(RuntimeError), atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("new")
            raise RuntimeError
        assert names(tmp_path) == ["folder"]
        assert names(path) == ["kept"]

    def test_a_folder_is_replaced_whole(self, tmp_path: Path):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "stale").write_text("old")
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "fresh").write_text("new")
        assert names(path) == ["fresh"]
        assert names(tmp_path) == ["folder"]

    def test_a_kill_while_a_folder_is_replaced_leaves_no_half_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "old").write_text("old")
        renamed = []
        rename = os.replace

        def watched(source: Path, target: Path) -> None:
            renamed.append(sorted(Path(source).iterdir()))
            rename(source, target)
            # Between and after the two renames there is the whole of one, or nothing.
            assert not path.exists() or len(names(path)) == 1

        monkeypatch.setattr(os, "replace", watched)
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("new")
        assert [[file.name for file in files] for files in renamed] == [["old"], ["new"]]
        assert names(path) == ["new"]
        assert names(tmp_path) == ["folder"]

    def test_a_request_to_stop_between_the_two_renames_brings_the_old_one_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = tmp_path / "folder"
        path.mkdir()
        (path / "old").write_text("old")
        rename = os.replace

        def stopped(source: Path, target: Path) -> None:
            if target == path and (Path(source) / "new").exists():
                raise KeyboardInterrupt
            rename(source, target)

        monkeypatch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("new")
        assert names(path) == ["old"]
        assert names(tmp_path) == ["folder"]

    def test_files_are_readable_by_others(self, tmp_path: Path):
        path = tmp_path / "file.txt"
        with atomic(path) as temporary:
            temporary.write_text("new")
            temporary.chmod(0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        with atomic(tmp_path / "folder") as temporary:
            (temporary / "inner").mkdir(parents=True)
            (temporary / "inner/file.txt").write_text("new")
            (temporary / "inner/file.txt").chmod(0o600)
        inner = tmp_path / "folder/inner/file.txt"
        assert stat.S_IMODE(inner.stat().st_mode) == 0o644

    def test_what_cannot_be_written_is_named_with_the_reason(self, tmp_path: Path):
        (tmp_path / "file").write_text("a file where a folder is needed")
        path = tmp_path / "file/below.txt"
        with pytest.raises(SacdError, match=r"below\.txt: could not be written \(\w+ \w"), \
                atomic(path) as temporary:  # fmt: skip
            temporary.write_text("new")

    def test_a_reason_without_an_error_number_is_told_too(self, tmp_path: Path):
        with pytest.raises(SacdError, match="cannot write mode RGB as XBM"), \
                atomic(tmp_path / "picture.xbm"):  # fmt: skip
            raise OSError("cannot write mode RGB as XBM")


class TestJson:
    def test_round_trip(self, tmp_path: Path):
        value = {"b": [1, 2.5, None], "a": {"ü": True}}
        write_json(tmp_path / "value.json", value)
        assert read_json(tmp_path / "value.json") == value

    def test_a_missing_file_is_named(self, tmp_path: Path):
        with pytest.raises(SacdError, match=r"absent\.json: no such file; run the step"):
            read_json(tmp_path / "absent.json")

    def test_a_broken_file_is_named(self, tmp_path: Path):
        path = tmp_path / "broken.json"
        path.write_text(json.dumps({"a": [1, 2, 3]})[:-4])
        with pytest.raises(SacdError, match=r"broken\.json: cannot be read .* delete it"):
            read_json(path)

    def test_an_unwritable_value_leaves_the_old_file(self, tmp_path: Path):
        path = tmp_path / "value.json"
        write_json(path, 1)
        with pytest.raises(TypeError):
            write_json(path, {1, 2})
        assert read_json(path) == 1
        assert names(tmp_path) == ["value.json"]


class TestDigest:
    def test_the_order_of_keys_does_not_count_and_that_of_lists_does(self):
        assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
        assert digest([1, 2]) != digest([2, 1])
        assert digest({"a": 1}) != digest({"a": 1.5})
        assert digest("1") != digest(1)


class TestUnknownName:
    def test_names_the_nearest_and_lists_all(self):
        message = str(unknown_name("class", "dogg", ["cat", "dog", "owl"], "images.classes"))
        assert message == (
            "images.classes: unknown class 'dogg'. Did you mean 'dog'? Known: cat, dog, owl."
        )

    def test_does_not_guess_wildly(self):
        message = str(unknown_name("class", "zzz", ["cat", "dog"]))
        assert message == "unknown class 'zzz'. Known: cat, dog."
