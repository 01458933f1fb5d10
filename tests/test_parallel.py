"""Several processes make what one makes: real torchrun, real gloo, two processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Checkout, environment

from sacd import parallel
from sacd.errors import SacdError
from sacd.files import read_json

# The stages, one after the other, with so few rows a shard that there are shards for two.
STAGES = """\
import sys, time
from sacd import parallel
import stages.cache_features, stages.draw_samples, pipeline.evaluation
import stages.score_samples, stages.train_adapter

stages.cache_features.ROWS_PER_SHARD = 4
stages.draw_samples.IMAGES_PER_SHARD = 2
pipeline.evaluation.IMAGES_PER_BATCH = 2
parallel.BUCKET_BYTES = 2**16  # several buckets of gradients a step
read_batch = pipeline.evaluation.load_file

def read_late(path):  # when the other process may have written its result long ago
    time.sleep(0.5)
    return read_batch(path)

if parallel.number():
    pipeline.evaluation.load_file = read_late
for name in sys.argv.pop().split(","):
    more = {"draw_samples": ["--method"], "score_samples": ["--method"],
            "train_adapter": ["--adapter"]}.get(name, [])
    sys.argv = [name, "--backbone", "tiny_a", *more, *(["spatial"] if more else [])]
    getattr(stages, name).main()
    parallel.wait()  # a stage may only begin when another's result is in its place
"""
SHARED = ("features/tiny_a", "samples/tiny_a/spatial")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "stages_in_turn.py"
    path.write_text(STAGES)
    return path


@pytest.fixture(scope="module")
def alone(finished: Checkout, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Features, samples and scores made again by one process."""
    made = emptied(finished, tmp_path_factory.mktemp("alone"))
    made.run(
        sys.executable, str(program), "cache_features,draw_samples,score_samples",
        PYTHONPATH=str(made.root),
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def together(
    finished: Checkout, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """The same by two processes, and then the adapter trained again."""
    made = emptied(finished, tmp_path_factory.mktemp("together"))
    made.run(
        *("torchrun", "--standalone", "--nproc-per-node", "2", str(program)),
        "cache_features,draw_samples,score_samples,train_adapter",
        PYTHONPATH=str(made.root),
    )
    return made


def emptied(finished: Checkout, folder: Path) -> Checkout:
    """A copy of the finished run without what is made again here."""
    made = finished.copy(folder / "repository")
    for name in SHARED:
        shutil.rmtree(made.experiment / name)
    for path in (made.experiment / "scores/tiny_a").glob("spatial.*"):
        path.unlink()
    return made


@pytest.mark.parametrize("folder", SHARED)
def test_shards_are_the_same_to_the_byte(alone: Checkout, together: Checkout, folder: str):
    ours, theirs = (checkout.experiment / folder for checkout in (alone, together))
    shards = sorted(path.relative_to(ours) for path in ours.rglob("shard-*"))
    assert len(shards) > 3
    for path in [*shards, *(path.relative_to(ours) for path in ours.rglob("index.json"))]:
        assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path
    record = "record.json"
    assert read_json(theirs / record)["processes"] == 2
    assert read_json(ours / record)["processes"] == 1


def test_scores_are_the_same_to_the_byte(alone: Checkout, together: Checkout):
    ours, theirs = (checkout.experiment / "scores/tiny_a" for checkout in (alone, together))
    for name in ("spatial.parquet", "spatial.sets.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_training_takes_the_steps_of_the_whole_batch(finished: Checkout, together: Checkout):
    """The same losses, up to the order of sums: each process adds up half of every batch.

    Not the same weights: where a gradient is nothing but rounding, Adam makes steps of it.
    """
    ours, theirs = (
        checkout.experiment / "adapters/tiny_a/spatial" for checkout in (finished, together)
    )
    histories = [json.loads((f / "training.json").read_text())["history"] for f in (ours, theirs)]
    for entry, twin in zip(*histories, strict=True):
        assert twin == pytest.approx(entry, abs=1e-4)
    assert read_json(theirs / "record.json")["processes"] == 2
    assert not list((together.experiment / ".work").glob("train_adapter-*"))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    parallel.require_even_shares(12)
    with pytest.raises(SacdError, match="batch of 32 cannot be shared evenly by 3 processes"):
        parallel.require_even_shares(32)


def test_shares_are_disjoint_and_make_the_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        shares.append(list(parallel.share(range(10))))
    assert shares == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize(("processes", "lines"), [("1", ["0/1"]), ("2", ["0/2", "1/2"])])
def test_the_launcher_starts_as_many_as_it_is_told(tmp_path: Path, processes: str, lines):
    (tmp_path / "who.py").write_text(
        "from sacd import parallel\nimport sys\n"
        "print(f'{parallel.number()}/{parallel.count()} {sys.argv[1:]}\\n', end='', flush=True)\n"
    )
    done = subprocess.run(
        ["bash", str(ROOT / "workflow/launch.sh"), "1", processes, "who", "--backbone", "a b"],
        env=environment(PYTHONPATH=f"{ROOT}:{tmp_path}"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == [f"{line} ['--backbone', 'a b']" for line in lines]
