"""The house keeps its rules: imports run one way, and what is required is what is locked."""

import ast
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

FOUNDATION = (
    "errors", "files", "provenance", "stopping", "parallel", "prefetch", "tensors", "shards",
    "numerics", "weight_files", "networks", "optimization",
)  # fmt: skip
ROOMS = (
    "images", "backbones", "features", "prior", "adapters", "training", "sampling", "baselines",
    "metrics", "robustness", "concepts", "figures",
)  # fmt: skip
MODULES = {
    "art": "adversarial-robustness-toolbox",
    "pil": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # by another name
# What each of our packages may import, beside itself.
OURS = {
    "sacd": set(),
    "pipeline": {"sacd"},
    "stages": {"pipeline", "sacd"},
    "cli": {"pipeline", "sacd"},
}
FORBIDDEN = {"argparse", "snakemake", "dvc", "pipeline", "stages", "cli", "yaml"}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported(path: Path) -> list[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room(dotted: str) -> str:
    """The second part of `sacd.<room>...`."""
    return dotted.split(".")[1]


class TestImports:
    def test_every_room_has_its_place(self, repository: Path):
        found = {
            path.stem for path in (repository / "sacd").iterdir()
            if (path.is_dir() and any(path.glob("*.py"))) or path.suffix == ".py"
        }  # fmt: skip
        assert found - {"__init__"} <= {*FOUNDATION, *ROOMS}

    def test_later_rooms_import_earlier_ones_and_never_the_reverse(self, repository: Path):
        order = {name: place for place, name in enumerate((*FOUNDATION, *ROOMS))}
        backwards = []
        for path in modules(repository / "sacd"):
            relative = path.relative_to(repository)
            here = room(".".join(relative.with_suffix("").parts))
            backwards += [
                f"{relative} imports {name}"
                for name in imported(path)
                if name.startswith("sacd.") and order[room(name)] > order.get(here, -1)
            ]
        assert backwards == []

    def test_packages_import_one_way(self, repository: Path):
        offences = [
            f"{path.relative_to(repository)} imports {name}"
            for package, allowed in OURS.items()
            for path in modules(repository / package)
            for name in imported(path)
            if name.split(".")[0] in OURS.keys() - allowed - {package}
        ]
        assert offences == []

    def test_a_program_imports_no_program(self, repository: Path):
        offences = [
            f"{path.relative_to(repository)} imports {name}"
            for path in modules(repository / "stages")
            for name in imported(path)
            if name.startswith("stages.")
        ]
        assert offences == []

    def test_stages_are_the_rules_programs(self, repository: Path):
        rules = {
            name
            for path in (repository / "workflow/rules").glob("*.smk")
            for name in re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE)
        }
        programs = {path.stem for path in modules(repository / "stages")} - {"__init__"}
        assert programs == rules

    def test_the_library_knows_nothing_of_the_pipeline(self, repository: Path):
        offences = [
            f"{path.relative_to(repository)} imports {name}"
            for path in modules(repository / "sacd")
            for name in imported(path)
            if name.split(".")[0] in FORBIDDEN
        ]
        assert offences == []

    def test_nothing_is_unpickled(self, repository: Path):
        offences = [
            f"{path.relative_to(repository)} imports {name}"
            for folder in OURS
            for path in modules(repository / folder)
            for name in imported(path)
            if name.split(".")[0] in {"pickle", "joblib", "dill", "shelve"}
        ]
        offences += [
            f"{path.relative_to(repository)} calls {call}"
            for folder in OURS
            for path in modules(repository / folder)
            for call in re.findall(r"torch\.load\(|read_pickle\(|allow_pickle", path.read_text())
        ]
        assert offences == []


def locked(repository: Path) -> dict[str, Version]:
    """Name -> version of requirements.lock."""
    lines = [line.strip() for line in (repository / "requirements.lock").read_text().splitlines()]
    pins: dict[str, Version] = {}
    for line in filter(lambda text: text and not text.startswith("#"), lines):
        name, _, version = line.partition("==")
        assert version, f"requirements.lock: '{line}' is no exact version"
        assert canonicalize_name(name) not in pins, f"requirements.lock: {name} stands twice"
        pins[canonicalize_name(name)] = Version(version)
    return pins


def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


class TestRequirements:
    def test_the_lock_satisfies_every_requirement(self, repository: Path):
        pins, described = locked(repository), project(repository)
        wanted = [*described["dependencies"], *described["optional-dependencies"]["dev"]]
        assert len(wanted) > 10
        for requirement in map(Requirement, wanted):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"requirements.lock lacks {requirement}"
            assert requirement.specifier.contains(pins[name], prereleases=True), requirement

    def test_requirements_have_lower_bounds(self, repository: Path):
        for requirement in map(Requirement, project(repository)["dependencies"]):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert ">=" in operators, requirement

    def test_every_library_that_is_imported_is_required(self, repository: Path):
        described = project(repository)
        texts = [
            *described["dependencies"],
            *described["optional-dependencies"]["stable-diffusion"],
        ]
        names = {canonicalize_name(Requirement(text).name) for text in texts}
        names |= {module for module, package in MODULES.items() if package in names}
        used = {
            name.split(".")[0]
            for folder in OURS
            for path in modules(repository / folder)
            for name in imported(path)
        }
        foreign = used - {*OURS, *sys.stdlib_module_names}
        assert {canonicalize_name(name) for name in foreign} - names == set()

    def test_conda_installs_the_lock_for_a_python_that_fits(self, repository: Path):
        environment = yaml.safe_load((repository / "environment.yml").read_text())
        pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
        assert "-r requirements.lock" in pip
        assert "-e ." in pip
        python = next(
            part for part in environment["dependencies"]
            if isinstance(part, str) and part.startswith("python")
        )  # fmt: skip
        version = re.search(r"[\d.]+", python)
        assert version, python
        required = SpecifierSet(project(repository)["requires-python"])
        assert required.contains(version.group())

    @pytest.mark.parametrize("command", ["sacd"])
    def test_console_scripts_lead_to_functions(self, repository: Path, command: str):
        module, _, function = project(repository)["scripts"][command].partition(":")
        assert callable(getattr(import_module(module), function))
