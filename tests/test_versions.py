"""The alarm that guards the stages' versions: edits that can change a result set it off."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, environment

from pipeline.versions import PARTS

sys.path.insert(0, str(ROOT / "workflow"))
import source
import versions

STAGE = "stages.score_samples"


def test_versions_are_those_of_the_code() -> None:
    """The alarm itself: `make versions` says what an edit changed."""
    known = versions.read_versions()
    assert set(known["stages"]) == set(PARTS)
    assert versions.changed_libraries(known) == [], "see `python workflow/versions.py --help`"
    assert versions.edited_stages(known) == [], "run `make versions`"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A copy of the code that may be edited."""
    for name in source.OURS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for cached in (source.code_files, source.code_digest, source._tree):
        cached.cache_clear()


def digest(tree: Path, stage: str = STAGE) -> str:
    return source.code_digest(tree, stage)


def digest_after(tree: Path, file: str, edit: Callable[[str], str], stage: str = STAGE) -> str:
    path = tree / file
    before = path.read_text()
    after = edit(before)
    assert after != before, "the edit changed nothing"
    path.write_text(after)
    forget()
    return digest(tree, stage)


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


HARMLESS = {
    "comment": lambda text: text + "\n# A remark.\n",
    "comment in a function": replaced("    cosines = ", "    # A remark.\n    cosines = "),
    "blank lines": lambda text: text.replace("\n\n\n", "\n\n\n\n"),
    "layout": replaced('"cos_q05": quantiles[0],', '"cos_q05":\n            quantiles[0],'),
    "module's docstring": replaced('"""Per-image scores', '"""Scores'),
    "function's docstring": replaced("Cosine similarity of", "The cosine of"),
    "docstring taken away": replaced(
        '    """Cosine similarity of the channel vectors at each location, (N, h*w)."""\n', ""
    ),
    "quotes": lambda text: text.replace('"cos_q05"', "'cos_q05'"),
}
TELLING = {
    "number": replaced("0.05, 0.5", "0.1, 0.5"),
    "name of a column": replaced('"cos_q05"', '"cos_q10"'),
    "new statement": lambda text: text + "\nF.cosine_similarity = None\n",
    "annotation": replaced("(ours: Tensor", "(ours: 'Tensor'"),
}


@pytest.mark.parametrize("edit", HARMLESS.values(), ids=HARMLESS)
def test_comments_layout_and_docstrings_do_not_count(tree: Path, edit: Callable[[str], str]):
    before = digest(tree)
    assert digest_after(tree, "sacd/metrics/features.py", edit) == before


def test_what_an_error_says_does_not_count(tree: Path):
    before = digest(tree)
    assert digest_after(tree, "sacd/files.py", replaced("no such file;", "is not here;")) == before


@pytest.mark.parametrize("edit", TELLING.values(), ids=TELLING)
def test_code_counts(tree: Path, edit: Callable[[str], str]):
    before = digest(tree)
    assert digest_after(tree, "sacd/metrics/features.py", edit) != before


@pytest.mark.parametrize(
    "file",
    [
        "stages/score_samples.py",  # the stage itself
        "pipeline/evaluation.py",  # what it imports
        "sacd/errors.py",  # what that imports, some steps on
        "sacd/metrics/__init__.py",  # a package on the way
    ],
)
def test_an_edit_in_any_imported_module_counts(tree: Path, file: str):
    before = digest(tree)
    assert digest_after(tree, file, lambda text: text + "\nNEW = 1\n") != before


@pytest.mark.parametrize("file", ["sacd/figures/style.py", "stages/plot_figures.py"])
def test_an_edit_elsewhere_does_not_count(tree: Path, file: str):
    before = digest(tree)
    assert digest_after(tree, file, lambda text: text + "\nNEW = 1\n") == before


def test_a_module_imported_inside_a_function_counts(tree: Path):
    before = digest(tree, "stages.draw_samples")
    edit = replaced("digest()[:8]", "digest()[8:16]")
    assert digest_after(tree, "sacd/sampling/noise.py", edit, "stages.draw_samples") != before


@pytest.mark.parametrize(
    "statement",
    [
        "from sacd.figures import style",
        "from sacd.figures.style import COLORS",
        "import sacd.figures.style",
        "def late():\n    import sacd.figures.style as style",
    ],
)
def test_a_new_import_brings_its_module_in(tree: Path, statement: str):
    def files() -> set[str]:
        return {path.as_posix() for path in source.code_files(tree, STAGE)}

    assert "sacd/figures/style.py" not in files()
    digest_after(tree, "pipeline/inputs.py", lambda text: f"{text}\n{statement}\n")
    assert "sacd/figures/style.py" in files()


def test_files_are_ours_sorted_and_relative(tree: Path):
    files = source.code_files(tree, STAGE)
    assert list(files) == sorted(files)
    assert not any(path.is_absolute() for path in files)
    assert {path.parts[0] for path in files} == {"sacd", "pipeline", "stages"}
    assert all((tree / path).exists() for path in files)


def test_the_digest_does_not_depend_on_where_the_repository_lies(tree: Path):
    assert digest(tree) == digest(ROOT)
    assert len(digest(tree)) == 16


def test_stages_have_different_digests():
    assert len({digest(ROOT, f"stages.{name}") for name in PARTS}) == len(PARTS)


def test_code_is_what_the_stages_import():
    """Found by `code_files`, and really imported by each stage."""
    imported = really_imported(list(PARTS))
    for name in PARTS:
        code = {path.as_posix() for path in source.code_files(ROOT, f"stages.{name}")}
        # A package's __init__.py is found only where it has more to it than a docstring.
        unnamed = imported[name] - code
        assert not {path for path in unnamed if (ROOT / path).read_text().count("\n") > 3}, name


def really_imported(stages: list[str]) -> dict[str, set[str]]:
    """Our files that each stage's module loads when it is imported in a process of its own."""
    program = """\
import json, os, sys
import diffusers, matplotlib.pyplot, pandas, timm, torch, torchvision  # once, before the forks
def ours():
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    paths = [os.path.relpath(file) for file in files if file]
    return [path for path in paths if path.startswith(("sacd/", "pipeline/", "stages/"))]
for name in sys.argv[1:]:
    sys.stdout.flush()
    if not os.fork():
        __import__(f"stages.{name}")
        print(json.dumps([name, ours()]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *stages],
        cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name: set(files) for name, files in map(json.loads, done.stdout.splitlines())}
