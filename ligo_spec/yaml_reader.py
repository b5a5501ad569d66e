"""YAML 1.2 text to plain values, strictly, with the position of every key and value.

The library parses; the values are built here from its events, so that nothing in a text can reach a constructor:
no anchors, aliases, tags, merge keys or second documents, no duplicate keys, decimal integers only, bounded size and
depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ligo_spec.errors import PlanError, Problem, printable

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_DIGITS = 19

Path = tuple[str | int, ...]
"""Keys and indices from the top of a document."""

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?(0[0-9]+|0[oOxXbB][0-9a-fA-F_]+)")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass
class Tree:
    """A document as plain values, and where each of them stands.

    Args:
        name: The file, as the user named it.
        value: Mappings, lists, texts, numbers, booleans, None.
        keys: Line and column of every key, by path.
        values: Line and column of every value, by path.
    """

    name: str
    value: Any = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def where(self, *path: str | int, key: bool = False) -> str:
        """``plan.yaml:9:7 target.hidden_size``: the place of a path, or of its nearest parent that is there."""
        line, column = self.position(path, key=key)
        place = f":{line}:{column}" if line else ""
        return " ".join(filter(None, [f"{printable(self.name)}{place}", dotted(path)]))

    def position(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Line and column of a path, or of its nearest parent that is there; zeros where there are none."""
        for length in range(len(path), -1, -1):
            table = self.keys if key and path[:length] in self.keys else self.values
            if path[:length] in table:
                return table[path[:length]]
        return 0, 0


def dotted(path: Path) -> str:
    """``stages.0.width`` for a path."""
    return ".".join(printable(part, 60) for part in path)


def read_tree(text: str, name: str) -> Tree:
    """The one mapping that a YAML text holds.

    Raises:
        PlanError: The text is not YAML, or breaks one of the rules above. All problems that can be told at once.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise PlanError(Problem(printable(name), f"is larger than {MAX_BYTES} bytes, which no plan needs"))
    builder = _Builder(Tree(name))
    try:
        for event in YAML(typ="rt", pure=True).parse(text):
            builder.take(event)
    except PlanError:  # a ValueError, too: the builder's own words and place stand as they are
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{printable(name)}:{mark.line + 1}:{mark.column + 1}" if mark else printable(name)
        raise PlanError(Problem(where, f"is not valid YAML: {printable(error.problem or error.context)}")) from error
    except (YAMLError, ValueError, KeyError, AttributeError, IndexError, TypeError, RecursionError) as error:
        raise PlanError(Problem(printable(name), f"is not valid YAML: {printable(error)}")) from error
    return builder.finished()


class _Builder:
    """Builds the tree from parser events."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[Problem] = []
        self._open: list[_Container] = []
        self._documents = 0
        self._seen = False

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        place = (event.start_mark.line + 1, event.start_mark.column + 1)
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                self._stop(place, "a second document begins here; a file holds one")
        elif kind == "AliasEvent" or getattr(event, "anchor", None) is not None:
            self._stop(place, "anchors and aliases are not allowed; write the value out")
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._refuse_tag(event, place)
            self._begin(_Container({} if kind == "MappingStartEvent" else []), place)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._open.pop()
        elif kind == "ScalarEvent":
            self._refuse_tag(event, place)
            self._scalar(event, place)

    def finished(self) -> Tree:
        if not self.problems and not isinstance(self.tree.value, dict):
            found = (
                "nothing" if self.tree.value is None else "a list" if isinstance(self.tree.value, list) else "a text"
            )
            self.problems.append(Problem(f"{printable(self.tree.name)}:1:1", f"expected a mapping, found {found}"))
        if self.problems:
            raise PlanError(self.problems)
        return self.tree

    def _path(self) -> Path:
        return tuple(container.place for container in self._open)

    def _note(self, place: tuple[int, int], message: str, path: Path = ()) -> None:
        where = f"{printable(self.tree.name)}:{place[0]}:{place[1]}"
        self.problems.append(Problem(" ".join(filter(None, [where, dotted(path)])), message))

    def _stop(self, place: tuple[int, int], message: str) -> None:
        self._note(place, message)
        raise PlanError(self.problems)

    def _refuse_tag(self, event: Any, place: tuple[int, int]) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._stop(place, f"tags such as {printable(tag, 40)} are not allowed")

    def _begin(self, container: _Container, place: tuple[int, int]) -> None:
        if self._open and self._open[-1].wants_key:
            self._stop(place, "a key must be a text")
        if len(self._open) >= MAX_DEPTH:
            self._stop(place, f"is nested deeper than {MAX_DEPTH} levels")
        self._put(container.value, place)
        self._open.append(container)

    def _scalar(self, event: Any, place: tuple[int, int]) -> None:
        plain = event.style in (None, "")
        if self._open and self._open[-1].wants_key:
            if plain and event.value == "<<":
                self._stop(place, "merge keys are not allowed; write the keys out")
            self._key(event.value, place)
            return
        try:
            value = _resolve(event.value) if plain else event.value
        except ValueError as error:
            self._put(None, place)
            self._note(place, str(error), self.tree_path)
            return
        self._put(value, place)

    def _key(self, key: str, place: tuple[int, int]) -> None:
        container = self._open[-1]
        path = (*self._path()[:-1], key)
        if key in container.value:
            line, column = self.tree.keys[path]
            self._note(place, f"the key is there twice, first at {line}:{column}", path)
        else:
            self.tree.keys[path] = place
        container.key = key

    def _put(self, value: Any, place: tuple[int, int]) -> None:
        if not self._open:
            self.tree.value = value
            self.tree.values[()] = place
            self.tree_path: Path = ()
            return
        container = self._open[-1]
        container.put(value)
        self.tree_path = self._path()
        self.tree.values[self.tree_path] = place


class _Container:
    """A mapping or list that is being filled."""

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self.value: Any = value
        self.key: str | None = None
        self.place: str | int = -1

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def put(self, value: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
            self.place = len(self.value) - 1
            return
        assert self.key is not None
        self.value.setdefault(self.key, value)
        self.place, self.key = self.key, None


def _resolve(text: str) -> Any:
    """A plain scalar by YAML 1.2's core rules, narrowed.

    Raises:
        ValueError: It looks like a number of another base, is not finite, or is too long.
    """
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return bool(_TRUE.fullmatch(text))
    if _OTHER_BASE.fullmatch(text):
        raise ValueError(
            f"{printable(text, 40)} is no decimal integer; write it without a leading zero, or quote a text"
        )
    if _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits; at most {MAX_DIGITS} are read")
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if _FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{printable(text, 40)} is not a finite number")
        return value
    return text


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path of a tree of plain values, parents first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))
