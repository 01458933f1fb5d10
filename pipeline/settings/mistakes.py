"""What is wrong with a params.yaml, in the user's terms: its keys, not pydantic's."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel


def explain(problem: Any, raw: Any, model: type[BaseModel]) -> str:
    """A line about one of pydantic's errors: where it is in the file `raw`, and what to do."""
    path = _without_tags(problem["loc"], raw)
    where = ".".join(str(part) for part in path)
    if problem["type"] != "extra_forbidden":
        return f"{where or 'file'}: {problem['msg']} (found: {short(problem['input'])})"
    *parents, key = path
    known = _keys_of(parents, raw, model)
    nearest = get_close_matches(str(key), known, n=1, cutoff=0.4)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{where}: unknown key; {hint}Keys here: {', '.join(known)}."


def short(value: Any) -> str:
    """A value as it would be written, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _without_tags(location: Sequence[str | int], raw: Any) -> list[str | int]:
    """A problem's place in the file: pydantic also names the type by which it chose a section."""
    path: list[str | int] = []
    entered = False  # the section at hand, whose type may follow
    for part in location:
        tagged = entered and isinstance(raw, dict) and part == raw.get("type")
        entered = not tagged
        if not tagged:
            path.append(part)
            raw = _inside(raw, part)
    return path


def _inside(raw: Any, part: str | int) -> Any:
    try:
        return raw[part]
    except (IndexError, KeyError, TypeError):
        return None


def _keys_of(path: list[Any], raw: Any, model: type[BaseModel]) -> list[str]:
    """Field names of the section at `path`, found by walking the models' annotations."""
    parts = iter(path)
    for part in parts:
        raw, annotation = _inside(raw, part), model.model_fields[part].annotation
        if get_origin(annotation) is dict:
            raw = _inside(raw, next(parts))  # a name of the user's choice
        sections = _sections_in(annotation)
        model = sections[0] if len(sections) == 1 else _by_type(sections, raw)
    return sorted(model.model_fields)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections inside `X`, `X | None`, `dict[str, X]` or `X | Y`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def _by_type(sections: list[type[BaseModel]], raw: Any) -> type[BaseModel]:
    """Of several possible sections, the one whose `type` stands in the file."""
    return next(
        section
        for section in sections
        if raw["type"] in get_args(section.model_fields["type"].annotation)
    )
