"""Experiments that say how they differ: what comes of it, that it is committed, and mistakes."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from sacd.errors import SacdError
from workflow import resolve

NAMES = [folder.name for folder in resolve.experiments()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An experiment beside one of other images, below a root with a model."""
    (tmp_path / "models/net").mkdir(parents=True)
    sections = {name: {} for name in resolve.RUN_WHOLE}
    root = {
        **sections,
        "seed": 1,
        "images": {"source": "shapes", "size": 64},
        "backbones": {"net": {"source": "models/net", "mean": [0.5, 0.5, 0.5]}},
        "methods": {"a": {"steps": 8}, "b": {"steps": 8, "samples": 2}},
        "compare": {"backbones": ["net"], **{name: [] for name in sections}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(root))
    for name, base in (("other", "root"), ("mine", "other")):
        (tmp_path / "experiments" / name).mkdir(parents=True)
        say(tmp_path / "experiments" / name, base=base)
    say(tmp_path / "experiments/other", base="root", changes={"images": {"size": 32}})
    return tmp_path / "experiments/mine"


def say(folder: Path, **said: object) -> None:
    (folder / resolve.SAYS).write_text(yaml.safe_dump(said))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_what_is_said(name: str):
    folder = ROOT / "experiments" / name
    assert (folder / "params.yaml").read_text() == resolve.text_of(folder)
    assert len((folder / resolve.SAYS).read_text().splitlines()) < 75


def test_most_experiments_say_it():
    assert len(NAMES) >= 5


def test_changes_are_merged_key_by_key_through_all_bases(folder: Path):
    say(
        folder, base="other", without=["methods.a"],
        changes={
            "methods": {"b": {"steps": 4}, "c": {"steps": 1}},
            "backbones": {"net": {"mean": [0]}},
        },
    )  # fmt: skip
    found = resolve.resolved(folder)
    assert found["images"] == {"source": "shapes", "size": 32}
    assert found["methods"] == {"b": {"steps": 4, "samples": 2}, "c": {"steps": 1}}
    assert found["backbones"]["net"]["mean"] == [0]
    assert found["compare"]["methods"] == ["b", "c"]


def test_a_section_runs_whole_unless_it_is_said_otherwise(folder: Path):
    say(folder, base="root", changes={"compare": {"methods": ["b"]}})
    assert resolve.resolved(folder)["compare"]["methods"] == ["b"]


def test_an_empty_mapping_empties_a_section(folder: Path):
    say(folder, base="root", changes={"methods": {}})
    assert resolve.resolved(folder)["methods"] == {}


def test_paths_lead_to_the_same_place(folder: Path):
    source = resolve.resolved(folder)["backbones"]["net"]["source"]
    assert source == "../../models/net"
    assert resolve.resolved(folder)["images"]["source"] == "shapes"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"base": "othr"}, r"base: unknown experiment 'othr'\. Did you mean 'other'\?"),
        ({"base": "mine"}, r"base: leads back to itself \(mine -> mine\)"),
        ({"changes": {}}, r"needs a base \(a name\)"),
        ({"base": "root", "changes": [1]}, "needs a base"),
        ({"base": "root", "change": {}}, r"unknown key 'change'\. Did you mean 'changes'\?"),
        ({"base": "root", "without": ["methods.x"]}, r"without: methods\.x: the base has no such"),
    ],
)
def test_a_mistake_is_named_by_the_file(folder: Path, said: dict, message: str):
    say(folder, **said)
    with pytest.raises(SacdError, match=message) as caught:
        resolve.resolved(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("images: {sise: 64}", r"images\.sise: unknown key; did you mean 'size'\?"),
        ("imagess: {size: 64}", r"imagess: unknown key; did you mean 'images'\?"),
        ("images: {size: 8}", r"images\.size: Input should be greater than or equal to 32"),
        ("seed: 2\n  seed: 3", "the key 'seed' stands twice"),
    ],
)
def test_what_can_not_be_run_is_named_where_it_is_said(
    fixture_params: dict, tmp_path: Path, changes: str, message: str
):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(fixture_params))
    folder = tmp_path / "experiments/mine"
    folder.mkdir(parents=True)
    (folder / resolve.SAYS).write_text(f"base: root\nchanges:\n  {changes}\n")
    with pytest.raises(SacdError, match=message) as caught:
        resolve.text_of(folder)
    assert str(caught.value).startswith(str(folder / resolve.SAYS))


def test_two_that_start_from_each_other_are_named(folder: Path):
    say(folder.parent / "other", base="mine")
    with pytest.raises(SacdError, match=r"leads back to itself \(mine -> other -> mine\)"):
        resolve.resolved(folder)
