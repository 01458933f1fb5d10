"""Sharded arrays on disk: images, features, latents and samples share this one format.

A folder holds `shard-00000.safetensors`, `shard-00001.safetensors`, ... and `index.json`, which is
written last: a folder with an index is complete. Row i of every array belongs to `ids[i]`. Rows are
read through memory maps.
"""

import json
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sacd import parallel
from sacd.errors import SacdError
from sacd.files import atomic, digest, read_json, write_json
from sacd.prefetch import prefetched
from sacd.provenance import file_sha256

INDEX = "index.json"
REDO = "delete its folder and make it again"

Arrays = dict[str, Tensor]  # by name, with the same number of rows
Made = Arrays | Callable[[], Arrays]  # or what will finish making them
Make = Callable[[int, int], Made]  # of the rows from start to stop


def write_shards(
    folder: Path,
    work: Path,
    ids: Sequence[str],
    rows_per_shard: int,
    make: Make,
    info: dict[str, Any],
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda items, total: items,
) -> None:
    """Fill `folder` with `make(start, stop)` for every block of rows: fill and publish in one."""
    fill_shards(work, ids, rows_per_shard, make, info, progress)
    publish_shards(work, folder)


def fill_shards(
    work: Path,
    ids: Sequence[str],
    rows_per_shard: int,
    make: Make,
    info: dict[str, Any],
    progress: Callable[[Iterator[int], int], Iterator[int]] = lambda items, total: items,
) -> None:
    """Collect `make(start, stop)` for every block of rows in `work`, resuming what is done.

    The name of `work` must be unique to the settings that make the shards; after a kill the same
    call goes on with the first missing one. A shard is finished and written by a thread while the
    next one is made. `info` is stored in the index. Several processes (`sacd.parallel`) share the
    shards.
    """
    if len(set(ids)) != len(ids):
        raise SacdError(f"{work}: the ids of its rows are not unique.")
    work.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(ids), rows_per_shard)
    mine = parallel.share(range(len(starts)))

    def saving(number: int) -> Callable[[], None]:
        path = work / _shard_name(number)
        if path.exists():
            return lambda: None
        rows = slice(starts[number], min(starts[number] + rows_per_shard, len(ids)))
        return partial(_save_shard, path, ids[rows], make(rows.start, rows.stop))

    # In this order, so that what is shown as done is written.
    for _ in zip(progress(iter(mine), len(mine)), prefetched(map(saving, mine)), strict=True):
        pass
    parallel.wait()
    if parallel.first():
        for left in work.glob(".*.partial"):  # by a process that was killed while it wrote
            left.unlink()
        _write_index(work, len(starts), info)
    parallel.wait()


def publish_shards(work: Path, folder: Path) -> None:
    """Move what `fill_shards` made to its place.

    A stage of several folders fills all of them first: what was published is not resumed. Of
    several processes the first one does it.
    """
    if not parallel.first():
        return
    # A folder may be a link to a file system of its own, where work is copied to.
    with atomic(folder) as temporary:
        shutil.move(work, temporary)


def verify_shards(folder: Path) -> None:
    """Raise `SacdError` unless every shard's content is what the index says."""
    shards = Shards(folder)
    for number in range(len(shards._shards)):
        shards._shard(number)


def finished(made: Made) -> Arrays:
    """The arrays, made to the end."""
    return made() if callable(made) else made


class Shards:
    """Read access to a folder made by `write_shards`.

    Attributes:
        ids: one id a row, in order.
        info: what the writer stored beside the arrays.

    Raises `SacdError` if the folder is incomplete, or a shard is missing, truncated or swapped; and
    as rows are first read of a shard, if its content is not what its index says.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = _read_index(folder / INDEX)
        self.info: dict[str, Any] = index["info"]
        self._sha256: list[str] = [shard["sha256"] for shard in index["shards"]]
        self.ids: list[str] = []
        self._starts: list[int] = []
        self._shards: list[dict[str, Tensor]] = []
        self._verified: set[int] = set()
        for number, expected in enumerate(index["shards"]):
            path = folder / _shard_name(number)
            ids, arrays = _open_shard(path, expected)
            self._starts.append(len(self.ids))
            self.ids += ids
            self._shards.append(arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def has(self, name: str) -> bool:
        """Whether every row has the array `name`."""
        return name in self._shards[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row of the array `name`."""
        return tuple(self._shards[0][name].shape[1:])

    def read(self, name: str, rows: Sequence[int]) -> Tensor:
        """The rows of the array `name`, stacked, as a copy in memory with the stored type."""
        found = torch.empty((len(rows), *self.shape(name)), dtype=self._shards[0][name].dtype)
        for number, row in enumerate(rows):  # torch.stack refuses fp16 under autocast on the CPU
            found[number] = self._row(name, row)
        return found

    def read_all(self, name: str) -> Tensor:
        """The whole array `name`, as a copy in memory."""
        return torch.cat([self._shard(number)[name] for number in range(len(self._shards))])

    def require_ids(self, ids: Sequence[str], whose: str) -> None:
        """Raise unless the rows are exactly `ids` in this order."""
        if self.ids != list(ids):
            raise SacdError(
                f"{self.folder}: its rows are not those of {whose} in the same order; "
                f"delete the folder and make it again."
            )

    def _row(self, name: str, row: int) -> Tensor:
        number = bisect_right(self._starts, row) - 1
        return self._shard(number)[name][row - self._starts[number]]

    def _shard(self, number: int) -> dict[str, Tensor]:
        """The arrays of a shard, whose content is verified once a process."""
        path = self.folder / _shard_name(number)
        if number not in self._verified:
            if file_sha256(path) != self._sha256[number]:
                raise SacdError(f"{path}: its content is not what its index says; {REDO}.")
            self._verified.add(number)
        return self._shards[number]


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def _save_shard(path: Path, ids: Sequence[str], made: Made) -> None:
    arrays = finished(made)
    for name, array in arrays.items():
        if len(array) != len(ids):
            raise ValueError(f"array {name} has {len(array)} rows for {len(ids)} ids")
        if array.is_floating_point() and not bool(array.isfinite().all()):
            raise SacdError(f"{path}: '{name}' is not finite (overflow or broken weights).")
    with atomic(path) as temporary:
        save_file(
            {name: array.contiguous() for name, array in arrays.items()},
            temporary,
            metadata={"ids": json.dumps(list(ids))},
        )


def _read_index(path: Path) -> dict[str, Any]:
    index, known = read_json(path), {"bytes", "ids_sha256", "sha256"}
    try:
        shaped = "info" in index and all(known <= shard.keys() for shard in index["shards"])
    except (AttributeError, KeyError, TypeError):
        shaped = False
    if not shaped:
        raise SacdError(f"{path}: not an index of shards; {REDO}.")
    return index


def _open_shard(path: Path, expected: dict[str, Any]) -> tuple[list[str], dict[str, Tensor]]:
    if not path.exists():
        raise SacdError(f"{path}: this shard is missing; {REDO}.")
    if path.stat().st_size != expected["bytes"]:
        raise SacdError(
            f"{path}: has {path.stat().st_size} bytes instead of {expected['bytes']} "
            f"(truncated or overwritten); {REDO}."
        )
    try:
        with safe_open(path, framework="pt") as shard:
            ids = json.loads((shard.metadata() or {}).get("ids", "[]"))
            arrays = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise SacdError(f"{path}: cannot be read ({error}); {REDO}.") from error
    if digest(ids) != expected["ids_sha256"]:
        raise SacdError(f"{path}: holds other rows than its index says (shards swapped?); {REDO}.")
    return ids, arrays


def _write_index(folder: Path, count: int, info: dict[str, Any]) -> None:
    shards = []
    for number in range(count):
        path = folder / _shard_name(number)
        with safe_open(path, framework="pt") as shard:
            ids = json.loads(shard.metadata()["ids"])
        shards.append(
            {
                "rows": len(ids),
                "bytes": path.stat().st_size,
                "ids_sha256": digest(ids),
                "sha256": file_sha256(path),
            }
        )
    write_json(folder / INDEX, {"info": info, "shards": shards})
