"""The version of a stage's code: moved by edits that can change a result, and by no others."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import code
from pipeline.code import code_files, code_version

STAGE = "stages.score_samples"


@pytest.fixture
def tree(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code that may be edited; versions are computed on it."""
    for name in code.OURS:
        shutil.copytree(
            repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(code, "ROOT", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    for cached in (code_files, code_version, code._read):
        cached.cache_clear()


def version_after(tree: Path, file: str, edit: Callable[[str], str], stage: str = STAGE) -> str:
    path = tree / file
    before = path.read_text()
    after = edit(before)
    assert after != before, "the edit changed nothing"
    path.write_text(after)
    forget()
    return code_version(stage)


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
    before = code_version(STAGE)
    assert version_after(tree, "sacd/metrics/features.py", edit) == before


@pytest.mark.parametrize("edit", TELLING.values(), ids=TELLING)
def test_code_counts(tree: Path, edit: Callable[[str], str]):
    before = code_version(STAGE)
    assert version_after(tree, "sacd/metrics/features.py", edit) != before


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
    before = code_version(STAGE)
    assert version_after(tree, file, lambda text: text + "\nNEW = 1\n") != before


@pytest.mark.parametrize("file", ["sacd/figures/style.py", "stages/plot_figures.py"])
def test_an_edit_elsewhere_does_not_count(tree: Path, file: str):
    before = code_version(STAGE)
    assert version_after(tree, file, lambda text: text + "\nNEW = 1\n") == before


def test_a_module_imported_inside_a_function_counts(tree: Path):
    before = code_version("cli.main")
    edit = replaced("digest()[:8]", "digest()[8:16]")
    assert version_after(tree, "sacd/sampling/noise.py", edit, "cli.main") != before


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
        return {path.as_posix() for path in code_files(STAGE)}

    assert "sacd/figures/style.py" not in files()
    version_after(tree, "pipeline/inputs.py", lambda text: f"{text}\n{statement}\n")
    assert "sacd/figures/style.py" in files()


def test_files_are_ours_sorted_and_relative(tree: Path):
    files = code_files(STAGE)
    assert list(files) == sorted(files)
    assert not any(path.is_absolute() for path in files)
    assert {path.parts[0] for path in files} == {"sacd", "pipeline", "stages"}
    assert all((tree / path).exists() for path in files)


def test_the_version_does_not_depend_on_where_the_repository_lies(tree: Path, monkeypatch):
    copied = code_version(STAGE)
    monkeypatch.undo()
    forget()
    assert code_version(STAGE) == copied
    assert len(copied) == 16


def test_stages_have_different_versions():
    assert (
        len({code_version(name) for name in ("cli.invert", "stages.make_prior", "cli.main")}) == 3
    )
