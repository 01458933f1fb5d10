"""The README says what the committed results say, and its links lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_shows_the_committed_table() -> None:
    shown = re.search(r"<!-- results/tables/main.md -->\n(.*?)<!-- end -->", README, re.S)
    assert shown is not None
    assert shown[1].strip() == (ROOT / "results/tables/main.md").read_text().strip()


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
