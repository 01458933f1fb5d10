"""The README says what the committed results say, and its links lead somewhere."""

import re
import shlex
import tomllib
from pathlib import Path

import yaml

from cli.main import create_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = "\n".join([README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))])


def test_readme_shows_the_committed_tables() -> None:
    shown = re.findall(r"<!-- (\S+\.md) -->\n(.*?)<!-- end -->", README, re.S)
    assert [name for name, _ in shown] == [
        "results/tables/main.md", "experiments/shapes_comparison/results/tables/methods.md",
        "experiments/imagenette/results/tables/methods.md",
    ]  # fmt: skip
    for name, table in shown:
        assert table.strip() == (ROOT / name).read_text().strip()


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", PAGES, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    programs = re.findall(r"python ((?:benchmarks|workflow)/\w+\.py)", PAGES)
    assert len(programs) > 3
    assert [program for program in programs if not (ROOT / program).exists()] == []


def test_printed_commands_are_ones_that_sacd_takes() -> None:
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", PAGES, re.S | re.M))
    printed = re.findall(r"^ *(?:\S+/)?sacd ((?:.*\\\n)*.*)$", fenced, re.M)
    assert len(printed) > 5
    for line in printed:
        words = shlex.split(line.replace("\\\n", " "), comments=True)
        assert create_parser().parse_args(words).command


def test_the_citation_is_of_this_version_and_names_the_methods_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.21032"
    assert f"[{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert "Version 2.0, January 2004" in (ROOT / project["license-files"][0]).read_text()
