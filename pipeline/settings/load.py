"""Reading params.yaml, and finding one's way in it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.artefacts import adapter_folder, decoder_folder
from pipeline.settings.consistency import require_consistent
from pipeline.settings.methods import AdapterMethod, DecoderMethod
from pipeline.settings.mistakes import explain
from pipeline.settings.sections import Settings
from sacd.errors import SacdError, unknown_name

PARAMS = Path("params.yaml")
# The environment's variable with the parameters that a run was planned with, which its jobs read
# wherever and whenever they start. So an edit of params.yaml concerns the next run alone.
PLANNED = "SACD_PARAMETERS"


LIMIT = 100_000  # values in a file, those of aliases counted wherever they stand


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 does, and so DVC; refuses a key that stands twice in a mapping."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            known.add(str(key.value))
        return node


# In YAML 1.1, which PyYAML reads, 1e-3 would be a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z"),
    list("-+0123456789"),
)


def load_settings(path: Path = PARAMS) -> Settings:
    """The checked parameters: in a job those of its run, else what stands in `path`."""
    if path == PARAMS and PLANNED in os.environ:
        return Settings.model_validate(json.loads(os.environ[PLANNED]))
    return read_settings(path)


def plan_with(settings: Settings) -> None:
    """Give these parameters to all programs that this process starts."""
    os.environ[PLANNED] = settings.model_dump_json()


def read_settings(path: Path = PARAMS) -> Settings:
    """Read and check a params.yaml; every mistake in it is named in one `SacdError`."""
    return checked(read_parameters(path), path)


def read_parameters(path: Path) -> Any:
    """What stands in a file of parameters, not checked; raises `SacdError` if it can't be read."""
    try:
        raw = yaml.load(path.read_text(), _Loader)
        if (count := _size(raw, {})) > LIMIT:
            raise SacdError(
                f"{path}: stands for {count} values, more than {LIMIT}; use less aliases."
            )
    except RecursionError as error:
        raise SacdError(f"{path}: is nested too deeply, or holds itself.") from error
    except FileNotFoundError as error:
        raise SacdError(
            f"{path.absolute()}: no such file; run in an experiment's folder "
            f"(or snakemake --directory FOLDER)."
        ) from error
    except OSError as error:
        raise SacdError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not, say
        raise SacdError(f"{path}: not valid YAML: {error}") from error
    return raw


def checked(raw: Any, path: Path) -> Settings:
    """The settings that `raw` is, from `path`; every mistake is named in one `SacdError`."""
    try:
        settings = Settings.model_validate(raw)
        require_consistent(settings)
    except ValidationError as error:
        lines = [explain(problem, raw, Settings) for problem in error.errors()]
        raise SacdError(f"{path}:\n" + "\n".join(f"  {line}" for line in lines)) from error
    except SacdError as error:
        raise SacdError(f"{path}: {error}") from error
    return settings


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values a value stands for; `known` are those of aliases, by identity."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def pick(known: dict[str, Any], name: str, kind: str) -> Any:
    """The section of a name given on the command line; an unknown one lists what there is."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def section(settings: Settings, path: str) -> Any:
    """The part of the settings at a dotted path, as plain values."""
    value: Any = settings.model_dump()
    for key in path.split("."):
        value = value[key]
    return value


def training_folder(settings: Settings, backbone: str, method: str) -> Path | None:
    """Where the network lies that was trained for a method, if one was."""
    chosen = settings.methods[method]
    if isinstance(chosen, AdapterMethod):
        return adapter_folder(backbone, chosen.adapter)
    if isinstance(chosen, DecoderMethod):
        return decoder_folder(backbone, chosen.decoder)
    return None
