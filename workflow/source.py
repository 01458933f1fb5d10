"""What code a stage runs: a digest of all our modules that it imports, and their statements.

Comments, layout, docstrings and what errors say do not count: the syntax tree is hashed, without
them.
"""

import ast
import hashlib
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OURS = ("sacd", "pipeline", "stages")


@dataclass(frozen=True)
class Statement:
    """A statement, or the head of one that holds others: its text, and the lines it stands on."""

    text: str
    path: str
    lines: range


@cache
def code_files(root: Path, module: str) -> tuple[Path, ...]:
    """Paths, relative to the repository `root`, of a module and all of ours it imports, sorted."""
    found: dict[Path, None] = {}
    pending = [module.split(".")[0], module]  # a package runs first
    while pending:
        path = _module_file(root, pending.pop())
        if path is None or path in found:
            continue
        found[path] = None
        pending += _imported(_tree(path))
    return tuple(sorted(path.relative_to(root) for path in found))


@cache
def code_digest(root: Path, module: str) -> str:
    """Digest (16 hex digits) of the syntax trees of `code_files`."""
    digest = hashlib.sha256()
    for path in code_files(root, module):
        digest.update(f"{path}\n{ast.dump(_tree(root / path))}\n".encode())
    return digest.hexdigest()[:16]


def statements(root: Path, module: str) -> list[Statement]:
    """All statements of `code_files`; those that only hold others count by their first line."""
    found = []
    for path in code_files(root, module):
        for node in ast.walk(_tree(root / path)):
            if isinstance(node, ast.stmt):
                found.append(_statement(node, path.as_posix()))
    return found


def _statement(node: ast.stmt, path: str) -> Statement:
    if isinstance(node, ast.Match):
        patterns = [ast.unparse(case.pattern) for case in node.cases]
        text = f"match {ast.unparse(node.subject)}: {patterns}"
        return Statement(text, path, range(node.lineno, node.lineno + 1))
    if not isinstance(body := getattr(node, "body", None), list):
        return Statement(ast.unparse(node), path, range(node.lineno, (node.end_lineno or 0) + 1))
    head = copy(node)
    for part in ("body", "orelse", "handlers", "finalbody"):
        if hasattr(head, part):
            setattr(head, part, [ast.Pass()] if part == "body" else [])
    # A function's head counts as run where its body is: then its arguments mattered.
    function = isinstance(node, ast.FunctionDef)
    lines = range(body[0].lineno, (body[0].end_lineno or 0) + 1) if function else None
    return Statement(ast.unparse(head), path, lines or range(node.lineno, body[0].lineno + 1))


def _module_file(root: Path, module: str) -> Path | None:
    if module.split(".")[0] not in OURS:
        return None
    path = root / Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


@cache  # stages share most of their files
def _tree(path: Path) -> ast.Module:
    """The syntax tree of a file without docstrings and without what errors say."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
            del body[0]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imported(tree: ast.Module) -> list[str]:
    """Names of modules imported anywhere in a file, also `from package import module`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    # Importing a.b.c runs a and a.b first.
    parts = [name.split(".") for name in names]
    return [".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)]
