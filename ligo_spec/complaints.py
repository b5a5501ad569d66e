"""From a validation error to problems with places: in our words, with the nearest known key, one a place."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ligo_spec.errors import Problem, printable
from ligo_spec.yaml_reader import Path, Tree


def problems_of(error: ValidationError, tree: Tree, model: type[BaseModel]) -> list[Problem]:
    """One problem a place: several branches of a union that all refuse a value are one."""
    found: dict[Path, list[Any]] = {}
    refused = error.errors(include_url=False, include_input=False)
    for item in refused:
        if item["type"] == "too_short" and any(_inside(other["loc"], item["loc"]) for other in refused):
            continue  # entries that are refused are not counted: their own problems say what is wrong
        found.setdefault(_real_path(item["loc"], item["type"], tree.value), []).append(item)
    placed = []
    for path, items in found.items():
        key = items[0]["type"] == "extra_forbidden"
        message = _message(items[0], path, tree, model) if len(items) == 1 else _no_branch(items, _at(tree.value, path))
        line = tree.keys.get(path) if key else None
        position = line or next(
            (tree.values[path[:n]] for n in range(len(path), -1, -1) if path[:n] in tree.values), (0, 0)
        )
        placed.append((position, Problem(tree.where(*path, key=key), message)))
    return [problem for _, problem in sorted(placed, key=lambda pair: pair[0])]


def _inside(loc: Path, outer: Path) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


def _real_path(loc: Path, kind: str, value: Any) -> Path:
    """The keys of an error's location that stand in the document: tags and names of unions' branches do not."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        if _has(value, part):
            value = value[part]
        elif not (kind == "missing" and number == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part] if _has(value, part) else None
    return value


def _message(item: Any, path: Path, tree: Tree, model: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    found = _described(_at(tree.value, path))
    if kind == "extra_forbidden":
        names = sorted({name for owner in _models_at(model, item["loc"][:-1]) for name in _keys(owner)})
        return f"unknown key{did_you_mean(path[-1], names)}"
    if kind == "missing":
        return "missing key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        tag, name = context["tag"], context["discriminator"].strip("'")
        return f"unknown {name} {printable(repr(tag))}{did_you_mean(tag, tags)}; one of {', '.join(tags)}"
    if kind == "union_tag_not_found":
        return f"missing key {context['discriminator'].strip(chr(39))}"
    if kind == "literal_error":
        return f"expected {context['expected']}, found {found}"
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"must be {word} {context[name]}, found {found}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} entries, found {context['actual_length']}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {found}"
    return f"{item['msg'][:1].lower()}{item['msg'][1:]}, found {found}"


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "none_required": "nothing",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
}


def _no_branch(items: Sequence[Any], value: Any) -> str:
    kinds = list(dict.fromkeys(_EXPECTED.get(item["type"], item["msg"].lower()) for item in items))
    return f"expected {' or '.join(kinds)}, found {_described(value)}"


def _described(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {printable(repr(value), 80)}"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return printable(value)


def did_you_mean(word: object, known: Sequence[str]) -> str:
    """`` (did you mean x?)``, or nothing where no known word is close."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, declared in model.model_fields.items():
        yield declared.alias or name


def _models_at(annotation: Any, loc: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a location of an error."""
    candidates = list(_models_in(annotation))
    for part in loc:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            if _tag_of(candidate) == part:
                following.append(candidate)
                continue
            for name, declared in candidate.model_fields.items():
                if part in (name, declared.alias):
                    following += _models_in(declared.annotation)
        candidates = following or candidates  # a key of a mapping, an index, or the name of a branch
    return candidates


def _tag_of(model: type[BaseModel]) -> str | None:
    for declared in model.model_fields.values():
        tags = get_args(declared.annotation) if get_origin(declared.annotation) is Literal else ()
        if declared.default in tags or (declared.is_required() and len(tags) == 1):
            return str(declared.default if declared.default in tags else tags[0])
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    origin = get_origin(annotation)
    if isinstance(annotation, type) and origin is None and issubclass(annotation, BaseModel):
        yield annotation
    elif origin is Annotated:
        yield from _models_in(get_args(annotation)[0])
    elif origin in (Union, types.UnionType, tuple, dict, list):
        for argument in get_args(annotation):
            yield from _models_in(argument)
