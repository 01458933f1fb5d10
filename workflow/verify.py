"""Recompute every digest of a finished experiment: `python workflow/verify.py [FOLDER]`.

Of each record: are its files, and those that they were made of, still the same; is it of today's
version of its stage; did the same parameters make it that params.yaml has? And of each shard: is
its content what its index says? Exits with 1 and a line for each difference.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.artefacts import PLACES
from pipeline.settings.load import load_settings, section
from pipeline.settings.sections import Settings
from pipeline.versions import PARTS, version_of
from sacd.errors import SacdError
from sacd.files import read_json
from sacd.provenance import RECORD, file_sha256
from sacd.shards import INDEX, verify_shards


def differences(settings: Settings) -> Iterator[str]:
    """What is not as it was recorded in the experiment's folder, which is the current one."""
    files = sorted(path for place in PLACES for path in Path(place).rglob("*.json"))
    for path in files:
        if path.name == RECORD or path.name.endswith(f".{RECORD}"):
            yield from _of_record(path, settings)
    for index in files:
        if index.name != INDEX:
            continue
        try:
            verify_shards(index.parent)
        except SacdError as error:
            yield str(error)


def _of_record(path: Path, settings: Settings) -> Iterator[str]:
    record = read_json(path)
    stage = record.get("stage")
    if stage not in PARTS:
        yield f"{path}: of no stage that there is ({stage})."
        return
    if record["version"] != version_of(stage):
        now = version_of(stage)
        yield f"{path}: by version {record['version']} of {stage}, which has {now} now."
    for part, made_with in record["parameters"].items():
        try:
            same = json.loads(json.dumps(section(settings, part))) == made_with
        except KeyError:
            same = False
        if not same:
            yield f"{path}: params.yaml has another '{part}' than made this."
    whose = {path.parent / name: known for name, known in record.get("sha256", {}).items()}
    whose |= {Path(name): known for name, known in record.get("made_of", {}).items()}
    for file, known in whose.items():
        if not file.is_file():
            yield f"{file}: is missing; {path} tells of it."
        elif file_sha256(file) != known:
            yield f"{file}: is not what {path} tells of."


def main() -> None:
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else ".")
    try:
        found = list(differences(load_settings()))
    except SacdError as error:
        sys.exit(f"error: {error}")
    if found:
        sys.exit("\n".join(found))
    print(f"{Path.cwd().name}: every file is what its record tells of.")


if __name__ == "__main__":
    main()
