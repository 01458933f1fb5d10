"""The version of the code that a stage runs: a digest of every module of ours that it imports.

Comments and layout do not count (the syntax tree is hashed), so only edits that can change a result
make Snakemake run a rule again.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OURS = ("sacd", "pipeline", "stages", "cli")


@cache
def code_files(module: str) -> tuple[Path, ...]:
    """Paths, relative to the repository, of a module and all of ours it imports, sorted."""
    found: dict[Path, None] = {}
    pending = [module]
    while pending:
        path = _module_file(pending.pop())
        if path is None or path in found:
            continue
        found[path] = None
        pending += _read(path)[0]
    return tuple(sorted(path.relative_to(ROOT) for path in found))


@cache
def code_version(module: str) -> str:
    """Digest (16 hex digits) of the syntax trees of `code_files(module)`."""
    digest = hashlib.sha256()
    for path in code_files(module):
        digest.update(f"{path}\n{_read(ROOT / path)[1]}\n".encode())
    return digest.hexdigest()[:16]


def _module_file(module: str) -> Path | None:
    if module.split(".")[0] not in OURS:
        return None
    path = ROOT / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


@cache  # Snakemake asks for the versions of all stages, which share most of their files
def _read(path: Path) -> tuple[list[str], str]:
    """Names of modules imported anywhere in a file (also `from package import module`), and its
    syntax tree without docstrings."""
    names = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    # Importing a.b.c runs a and a.b first.
    parts = [name.split(".") for name in names]
    modules = [".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)]
    return modules, ast.dump(_without_docstrings(tree))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        if isinstance(body[0].value, ast.Constant):
            del body[0]
    return tree
