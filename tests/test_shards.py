"""Sharded arrays: what was written is read, and nothing else passes for it."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sacd.errors import SacdError
from sacd.shards import INDEX, Shards, write_shards

IDS = [f"image-{row}" for row in range(10)]
NUMBERS = torch.arange(60, dtype=torch.float16).view(10, 2, 3)
PIXELS = torch.arange(40, dtype=torch.uint8).view(10, 4)


def block(start: int, stop: int) -> dict[str, Tensor]:
    return {"numbers": NUMBERS[start:stop], "pixels": PIXELS[start:stop]}


def write(folder: Path, ids: list[str] = IDS, rows_per_shard: int = 4, make=block, info=None):
    write_shards(folder, folder.with_name("work"), ids, rows_per_shard, make, info or {})


def shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 4, 4 and 2 rows."""
    write(tmp_path / "numbers", info={"layer": "last"})
    return tmp_path / "numbers"


class TestRoundTrip:
    def test_rows_ids_and_info_come_back(self, folder: Path):
        shards = Shards(folder)
        assert shards.ids == IDS
        assert len(shards) == 10
        assert shards.info == {"layer": "last"}
        assert shards.shape("numbers") == (2, 3)
        assert shards.has("pixels")
        assert not shards.has("logits")
        assert torch.equal(shards.read_all("numbers"), NUMBERS)
        assert torch.equal(shards.read_all("pixels"), PIXELS)
        assert shards.read_all("numbers").dtype == torch.float16

    def test_rows_are_read_in_any_order_across_shards(self, folder: Path):
        rows = [9, 0, 4, 3, 7, 0]
        assert torch.equal(Shards(folder).read("numbers", rows), NUMBERS[rows])
        assert torch.equal(Shards(folder).read("numbers", range(2, 9)), NUMBERS[2:9])

    def test_stored_types_are_kept_where_mixed_precision_is_at_work(self, folder: Path):
        with torch.autocast("cpu", torch.bfloat16):
            found = Shards(folder).read("numbers", [1, 5])
        assert found.dtype == torch.float16
        assert torch.equal(found, NUMBERS[[1, 5]])

    def test_what_was_read_is_a_copy(self, folder: Path):
        shards = Shards(folder)
        shards.read("numbers", [0]).zero_()
        shards.read_all("numbers").zero_()
        assert torch.equal(shards.read_all("numbers"), NUMBERS)
        assert torch.equal(Shards(folder).read_all("numbers"), NUMBERS)

    @pytest.mark.parametrize("rows_per_shard", [1, 5, 10, 100])
    def test_the_number_of_shards_does_not_matter(self, tmp_path: Path, rows_per_shard):
        write(tmp_path / "numbers", rows_per_shard=rows_per_shard)
        shards = Shards(tmp_path / "numbers")
        assert torch.equal(shards.read_all("numbers"), NUMBERS)
        assert shards.ids == IDS

    def test_views_that_are_not_contiguous_are_stored_as_they_look(self, tmp_path: Path):
        write(tmp_path / "numbers", make=lambda start, stop: {"n": NUMBERS[start:stop].mT})
        assert torch.equal(Shards(tmp_path / "numbers").read_all("n"), NUMBERS.mT)

    def test_writing_again_replaces_the_folder(self, folder: Path):
        write(folder, ids=IDS[:3], make=lambda start, stop: {"numbers": -NUMBERS[start:stop]})
        assert torch.equal(Shards(folder).read_all("numbers"), -NUMBERS[:3])
        assert not shard(folder, 1).exists()


class TestResume:
    def test_finished_shards_are_not_made_again(self, tmp_path: Path):
        asked: list[int] = []

        def fail_at_third(start: int, stop: int) -> dict[str, Tensor]:
            asked.append(start)
            if asked == [0, 4, 8]:
                raise KeyboardInterrupt
            return block(start, stop)

        folder = tmp_path / "numbers"
        with pytest.raises(KeyboardInterrupt):
            write(folder, make=fail_at_third)
        assert not folder.exists()
        write(folder, make=fail_at_third)
        assert asked == [0, 4, 8, 8]
        assert torch.equal(Shards(folder).read_all("numbers"), NUMBERS)
        assert not (tmp_path / "work").exists()

    def test_what_a_kill_left_of_a_shard_is_not_published(self, tmp_path: Path):
        (tmp_path / "work").mkdir()
        (tmp_path / "work/.shard-00001.safetensors.4711.partial").write_text("half")
        write(tmp_path / "numbers")
        expected = [INDEX, *(shard(tmp_path, number).name for number in range(3))]
        assert sorted(path.name for path in (tmp_path / "numbers").iterdir()) == expected

    def test_the_old_folder_stays_until_the_new_one_is_whole(self, folder: Path):
        def fail(start: int, stop: int) -> dict[str, Tensor]:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            write(folder, make=fail)
        assert torch.equal(Shards(folder).read_all("numbers"), NUMBERS)


class TestFinishing:
    """`make` may leave the end of its work to the thread that writes."""

    def test_it_is_done_while_the_next_shard_is_made(self, tmp_path: Path):
        written = tmp_path / "work/shard-00000.safetensors"
        waited: list[bool] = []

        def make(start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
            if start == 4:
                end = time.monotonic() + 60
                while not written.exists() and time.monotonic() < end:
                    time.sleep(0.01)
                waited.append(written.exists())
            return lambda: block(start, stop)

        write(tmp_path / "numbers", make=make)
        assert waited == [True]
        assert torch.equal(Shards(tmp_path / "numbers").read_all("numbers"), NUMBERS)

    def test_a_shard_that_has_begun_is_kept_when_the_next_one_fails(self, tmp_path: Path):
        def make(start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
            if start == 4:
                raise InterruptedError
            return lambda: time.sleep(0.2) or block(start, stop)

        with pytest.raises(InterruptedError):
            write(tmp_path / "numbers", make=make)
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["shard-00000.safetensors"]

    def test_its_error_ends_the_whole_and_nothing_is_published(self, tmp_path: Path):
        def make(start: int, stop: int) -> Callable[[], dict[str, Tensor]]:
            return lambda: {"numbers": NUMBERS[start:stop] / (4 - start)}

        with pytest.raises(SacdError, match=r"shard-00001.safetensors: 'numbers' is not finite"):
            write(tmp_path / "numbers", make=make)
        assert not (tmp_path / "numbers").exists()
        assert (tmp_path / "work/shard-00000.safetensors").exists()


class TestRefusals:
    def test_a_folder_without_an_index_is_incomplete(self, folder: Path):
        (folder / INDEX).unlink()
        with pytest.raises(SacdError, match=r"numbers/index\.json: no such file"):
            Shards(folder)

    def test_a_missing_shard(self, folder: Path):
        shard(folder, 1).unlink()
        with pytest.raises(SacdError, match=r"shard-00001\.safetensors: this shard is missing"):
            Shards(folder)

    def test_a_truncated_shard(self, folder: Path):
        path = shard(folder, 2)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(
            SacdError, match=rf"shard-00002\.safetensors: has {size - 5} bytes instead of {size} "
        ):
            Shards(folder)

    def test_a_shard_of_the_right_size_that_is_none(self, folder: Path):
        path = shard(folder, 0)
        path.write_bytes(b"\xff" * path.stat().st_size)
        with pytest.raises(SacdError, match=r"shard-00000\.safetensors: cannot be read"):
            Shards(folder)

    def test_swapped_shards(self, folder: Path):
        first, second = shard(folder, 0), shard(folder, 1)
        assert first.stat().st_size == second.stat().st_size
        shutil.move(first, folder / "kept")
        shutil.move(second, first)
        shutil.move(folder / "kept", second)
        with pytest.raises(
            SacdError, match=r"shard-00000\.safetensors: holds other rows .*swapped"
        ):
            Shards(folder)

    def test_a_foreign_file_without_ids(self, folder: Path):
        path = shard(folder, 0)
        save_file({"numbers": NUMBERS[:4]}, path)
        index = json.loads((folder / INDEX).read_text())
        index["shards"][0]["bytes"] = path.stat().st_size
        (folder / INDEX).write_text(json.dumps(index))
        with pytest.raises(SacdError, match=r"shard-00000\.safetensors: "):
            Shards(folder)

    def test_repeated_ids(self, tmp_path: Path):
        with pytest.raises(SacdError, match=r"work: the ids of its rows are not unique"):
            write(tmp_path / "numbers", ids=[*IDS[:9], IDS[0]])
        assert not (tmp_path / "numbers").exists()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, tmp_path: Path, value):
        def broken(start: int, stop: int) -> dict[str, Tensor]:
            numbers = NUMBERS[start:stop].clone()
            numbers[-1, 0, 0] = value
            return {"numbers": numbers}

        with pytest.raises(SacdError, match=r"shard-00000\.safetensors: 'numbers' is not finite"):
            write(tmp_path / "numbers", make=broken)
        assert not (tmp_path / "numbers").exists()

    def test_arrays_of_another_length_than_the_ids(self, tmp_path: Path):
        with pytest.raises(ValueError, match="numbers has 3 rows for 4 ids"):
            write(tmp_path / "numbers", make=lambda start, stop: {"numbers": NUMBERS[:3]})

    def test_rows_of_others(self, folder: Path):
        shards = Shards(folder)
        shards.require_ids(IDS, "data/images/test")
        for others in (IDS[::-1], IDS[:-1], [*IDS[:-1], "another"]):
            with pytest.raises(
                SacdError, match=r"numbers: its rows are not those of data/images/test in the same"
            ):
                shards.require_ids(others, "data/images/test")


FILL_THE_DISK = """
import resource, sys, torch
from pathlib import Path
from sacd.errors import SacdError
from sacd.shards import write_shards
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    arrays = {"n": torch.zeros(1, 50_000)}
    write_shards(Path("numbers"), Path("work"), ["a"], 1, lambda start, stop: arrays, {})
except SacdError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_full_disk_is_one_message_and_leaves_no_half_shard(tmp_path: Path, repository: Path):
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert "shard-00000.safetensors: could not be written" in done.stdout
    assert list((tmp_path / "work").iterdir()) == []


class TestPlaces:
    """Where folders lie does not matter: scratch is often a link to another file system."""

    def make(self, start: int, stop: int) -> dict:
        return {"x": torch.arange(start, stop)}

    @pytest.fixture
    def scratch(self) -> Iterator[Path]:
        """A folder on another file system than pytest's."""
        if not os.access("/dev/shm", os.W_OK):
            pytest.skip("needs /dev/shm")
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        yield folder
        shutil.rmtree(folder)

    @pytest.mark.parametrize("linked", ["features", "features/net"])
    def test_a_link_to_another_file_system_is_written_through(
        self, tmp_path: Path, scratch: Path, linked: str
    ):
        assert os.stat(scratch).st_dev != os.stat(tmp_path).st_dev
        link = tmp_path / linked
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(scratch)
        folder = tmp_path / "features/net/train"
        for ids in (["a", "b", "c"], ["d", "e"]):  # anew, and in place of what stands
            write_shards(folder, tmp_path / ".work/x", ids, 2, self.make, {})
            assert Shards(folder).ids == ids
            assert link.is_symlink()
            assert not (tmp_path / ".work/x").exists()
        assert [path.name for path in folder.parent.iterdir()] == ["train"]

    def test_a_folder_that_is_itself_a_link_stays_one(self, tmp_path: Path, scratch: Path):
        (scratch / "old").mkdir()
        folder = tmp_path / "train"
        folder.symlink_to(scratch / "old")
        write_shards(folder, tmp_path / "work", ["a"], 2, self.make, {})
        assert folder.is_symlink()
        assert Shards(folder).ids == ["a"]

    def test_the_old_stands_until_the_new_does(self, tmp_path: Path, monkeypatch):
        folder = tmp_path / "train"
        write_shards(folder, tmp_path / "work", ["a"], 2, self.make, {})

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("sacd.shards.shutil.move", full)
        with pytest.raises(SacdError, match=r"train: could not be written \(No space left"):
            write_shards(folder, tmp_path / "work", ["b"], 2, self.make, {})
        assert Shards(folder).ids == ["a"]
        assert (tmp_path / "work/index.json").exists()  # to be published by the next try


@pytest.mark.parametrize("text", ["[]", "null", '{"info": {}}', '{"info": {}, "shards": [1]}'])
def test_an_index_of_another_shape_is_named(tmp_path: Path, text: str):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(SacdError, match=r"index\.json: not an index of shards; delete"):
        Shards(tmp_path)
