"""Keep the versions of the stages' behaviour true: `make versions` after an edit of code.

workflow/versions.json holds each stage's version, on which results depend, and the digest of the
code that has it. Where the code is another one now, the stage is run on the fixture by the code of
the last commit that had the versions right and by today's, on the same inputs. What it writes stays
the same byte for byte (seconds, memory and revisions aside): the version stays. It differs: the
version is raised, and results of the stage are stale.

Statements that were changed and that the fixture does not run (for CUDA, photographs, a hub) need a
word: `python workflow/versions.py keep STAGE ... --reason TEXT`, or `raise`. So do new releases of
the libraries that decide numbers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from replay import Lines, jobs_of, redo, replay, union  # of this folder
from source import Statement, code_digest, statements

ROOT = Path(__file__).resolve().parent.parent
FILE = Path("workflow/versions.json")
FIXTURE = Path("tests/fixture/params.yaml")

Versions = dict[str, Any]


def changed_libraries(versions: Versions) -> list[str]:
    """Which libraries that decide numbers are of another release now."""
    return [
        f"{name} is {version(name)}, was {known}"
        for name, known in versions["libraries"].items()
        if version(name) != known
    ]


def edited_stages(versions: Versions, root: Path = ROOT) -> list[str]:
    """The stages whose code is not that which has their version."""
    known = versions["stages"]
    stages = sorted(path.stem for path in (root / "stages").glob("[a-z]*.py"))
    return [
        stage
        for stage in stages
        if known.get(stage, {}).get("code") != code_digest(root, f"stages.{stage}")
    ]


def read_versions(root: Path = ROOT) -> Versions:
    """What workflow/versions.json says."""
    return json.loads((root / FILE).read_text())


def compare() -> None:
    """Run the stages concerned by the old code and the new, and write what comes of it."""
    committed: Versions = json.loads(_git("show", f"HEAD:{FILE}"))
    if changed := changed_libraries(committed):
        sys.exit(
            f"error: {'; '.join(changed)}: two releases cannot be compared in one environment. Say "
            f"`python workflow/versions.py keep STAGE ... --reason TEXT`, or `raise`."
        )
    concerned = edited_stages(committed)
    if not concerned:
        _write(committed)
        print("versions: all stages run the code that has their versions.")
        return
    with tempfile.TemporaryDirectory(prefix="sacd-versions-") as name:
        old, place = Path(name) / "old", Path(name)
        commit = _git("log", "-1", "--format=%H", "--", str(FILE)).strip()
        old.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(old)], input=archive.stdout, check=True)
        print(f"versions: running the fixture by the code of {commit[:12]} ...")
        reference = place / "reference"
        reference.mkdir()
        (reference / "params.yaml").write_bytes((old / FIXTURE).read_bytes())
        before = replay(old, reference, jobs_of(old, reference))
        (place / "plan").mkdir()
        (place / "plan/params.yaml").write_bytes((ROOT / FIXTURE).read_bytes())
        jobs = jobs_of(ROOT, place / "plan")
        redone = {
            stage: redo(ROOT, reference, [job for job in jobs if job.stage == stage], place / stage)
            for stage in concerned
        }
        unseen = _unseen(old, concerned, before, union(lines for lines, _ in redone.values()))
        unsaid = []
        for stage, (_, differing) in redone.items():
            entry = committed["stages"].setdefault(stage, {"version": 0})
            if differing:
                entry["version"] += 1
                print(f"{stage}: version {entry['version']}, for it writes another", *differing)
            elif unseen[stage]:
                unsaid.append(stage)
                print(f"{stage}: the same on the fixture, which does not run what was changed:")
                print("\n".join(f"    {statement}" for statement in unseen[stage]))
                continue
            else:
                print(f"{stage}: the same, byte for byte")
            entry["code"] = code_digest(ROOT, f"stages.{stage}")
    _write(committed)
    if unsaid:
        sys.exit(
            "error: give your word for these: `python workflow/versions.py keep (or raise) "
            f"{' '.join(unsaid)} --reason TEXT`"
        )


def _unseen(old: Path, stages: list[str], before: Lines, after: Lines) -> dict[str, list[str]]:
    """By stage, statements that only one of the two trees has and that no stage's run executed.

    What some stage executed was compared there: what it does is known from that stage.
    """
    found = {}
    for stage in stages:
        module = f"stages.{stage}"
        ours, theirs = statements(ROOT, module), statements(old, module)
        found[stage] = [
            *(f"+ {text}" for text in _not_run(ours, theirs, after)),
            *(f"- {text}" for text in _not_run(theirs, ours, before)),
        ]
    return found


def _not_run(some: list[Statement], others: list[Statement], lines: Lines) -> list[str]:
    left = Counter(statement.text for statement in some)
    left.subtract(Counter(statement.text for statement in others))
    return [
        f"{statement.path}:{statement.lines.start} {statement.text.splitlines()[0]}"
        for statement in some
        if left[statement.text] > 0 and lines.get(statement.path, set()).isdisjoint(statement.lines)
    ]


def decide(stages: list[str], reason: str, raised: bool) -> None:
    """Take somebody's word for stages whose code or libraries are others now."""
    versions = read_versions()
    if strangers := set(stages) - set(versions["stages"]):
        sys.exit(f"error: no such stage: {', '.join(sorted(strangers))}")
    for stage in stages:
        entry = versions["stages"][stage]
        entry["version"] += raised
        entry["code"] = code_digest(ROOT, f"stages.{stage}")
        entry["word"] = f"{'raised' if raised else 'kept'}: {reason}"
    if set(stages) == set(versions["stages"]):
        versions["libraries"] = {name: version(name) for name in versions["libraries"]}
    _write(versions)


def _write(versions: Versions) -> None:
    (ROOT / FILE).write_text(json.dumps(versions, indent=2) + "\n")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = parser.add_subparsers(dest="word")
    for word in ("keep", "raise"):
        command = words.add_parser(word)
        command.add_argument("stages", nargs="+", metavar="STAGE")
        command.add_argument("--reason", required=True)
    chosen = parser.parse_args()
    if chosen.word:
        decide(chosen.stages, chosen.reason, raised=chosen.word == "raise")
    else:
        compare()


if __name__ == "__main__":
    main()
