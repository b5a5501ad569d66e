"""Two checkpoints of any formats, compared tensor by tensor, one pair in memory at a time.

Tensors are matched by name first: by canonical name where both are of known families, so that fused, prefixed and
old-named ones meet, else by the name in the file. What is left is matched by content: moved, transposed, rounded to
another dtype, or stored a second time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ligo_spec.diff_matching import Match, leftovers_matched
from ligo_spec.diff_sides import Key, Side, Stored, open_sides
from ligo_spec.difference import Difference, agreement, difference
from ligo_spec.errors import Problem, printable
from ligo_spec.family import load_family

Verdict = Literal[
    "same", "tied", "renamed", "transposed", "other dtype", "different", "other shape", "only in A", "only in B"
]

ALIKE: tuple[Verdict, ...] = ("same", "tied")
"""Verdicts that are no difference: a tied tensor is stored once on one side, and again on the other."""


@dataclass(frozen=True)
class TensorDiff:
    """What became of one tensor.

    Args:
        name: Its canonical name, or that in A's file (in B's, where A has none).
        verdict: ``renamed`` and ``transposed`` are bit for bit the same otherwise, or rounded where the dtypes differ;
            ``other dtype`` is one rounded to the other's dtype.
        a: The tensor in A.
        b: The tensor in B.
        difference: By how much, where the verdict is ``different``.
    """

    name: str
    verdict: Verdict
    a: Stored | None
    b: Stored | None
    difference: Difference | None = None


@dataclass(frozen=True)
class ConfigDiff:
    """A key of ``config.json`` that differs: its values as JSON, None where a config does not have it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class Diff:
    """What ``ligo diff`` shows.

    Args:
        a: The first checkpoint, as it was named.
        b: The second.
        families: Of both, where tensors go by their canonical names.
        tensors: Every tensor of both, each once.
        config: The keys of ``config.json`` that differ.
        notes: Why tensors go by their names in the files, where they do.
    """

    a: str
    b: str
    families: tuple[str, str] | None
    tensors: tuple[TensorDiff, ...]
    config: tuple[ConfigDiff, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both hold the same tensors under the same names, bit for bit, and the same config."""
        return not self.config and all(item.verdict in ALIKE for item in self.tensors)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many tensors have each verdict that occurs."""
        found = Counter(item.verdict for item in self.tensors)
        return {verdict: found[verdict] for verdict in get_args(Verdict) if found[verdict]}

    def problems(self) -> Iterator[Problem]:
        """Every difference, one line each."""
        for item in self.tensors:
            if item.verdict not in ALIKE:
                yield Problem(printable(item.name), item.verdict)
        for key in self.config:
            texts = ["absent" if text is None else printable(text) for text in (key.a, key.b)]
            yield Problem(f"config.json {printable(key.key)}", f"{texts[0]} in A, {texts[1]} in B")


def diff(a: str | Path, b: str | Path, *, family: str | Path | None = None) -> Diff:
    """Compare two checkpoints, tensor by tensor.

    Args:
        a: A directory, a file or ``hf://owner/name@revision``.
        b: The same.
        family: Of both, by its name or file; found in ``config.json`` where it is left out.

    Raises:
        InputError: A checkpoint is refused, or is not of the family that is named.
        PlanError: ``family`` is not to be had.
    """
    sides, notes = open_sides(a, b, None if family is None else load_family(family))
    places = [{name: place for place, name in enumerate(side.checkpoint.tensors)} for side in sides]
    rows = sorted(_rows(*sides), key=lambda row: _place(row, *places))
    for side in sides:
        side.checkpoint.check_unchanged()
    families = (sides[0].family, sides[1].family)
    known = None if None in families else (str(families[0]), str(families[1]))
    config = tuple(_config(sides[0].checkpoint.config, sides[1].checkpoint.config))
    return Diff(str(a), str(b), known, tuple(rows), config, notes)


def _rows(a: Side, b: Side) -> Iterator[TensorDiff]:
    by_name = [Match(key, key) for key in a.tensors if key in b.tensors]
    for match in by_name:
        yield _row(a, b, match)
    for match in leftovers_matched(a, b, by_name):
        yield _row(a, b, match)


def _place(row: TensorDiff, a: Mapping[str, int], b: Mapping[str, int]) -> tuple[int, int]:
    """Rows stand in the order of the files: of A, then of B."""
    return (0, a[row.a.name]) if row.a is not None else (1, b[row.b.name] if row.b is not None else 0)


def _row(a: Side, b: Side, match: Match) -> TensorDiff:
    first = None if match.a is None else a.tensors[match.a]
    second = None if match.b is None else b.tensors[match.b]
    named = match.b if match.a is None or match.again == "B" else match.a
    assert named is not None, "a match is of some tensor"
    if match.a is None or match.b is None or first is None or second is None:
        return TensorDiff(named.name, "only in B" if match.a is None else "only in A", first, second)
    verdict, numbers = ("same", None) if match.certain else _verdict(a, b, match.a, match.b)
    if match.again is not None and verdict not in ("different", "other shape"):
        verdict = "tied"
    return TensorDiff(named.name, verdict, first, second, numbers)


def _verdict(a: Side, b: Side, one: Key, other: Key) -> tuple[Verdict, Difference | None]:
    first, second = a.tensors[one], b.tensors[other]
    turned = len(first.shape) == 2 and first.shape == second.shape[::-1]
    if first.shape != second.shape and not turned:
        return "other shape", None
    x, y = a.read(one), b.read(other)
    match agreement(x, y):
        case "bits":
            return ("same" if first.name == second.name else "renamed"), None
        case "values":
            return "other dtype", None
    if turned and agreement(x.T, y):
        return "transposed", None
    return ("other shape", None) if x.shape != y.shape else ("different", difference(x, y))


def _config(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[ConfigDiff]:
    for key in sorted({*a, *b}):
        texts = [json.dumps(config[key], sort_keys=True) if key in config else None for config in (a, b)]
        if texts[0] != texts[1]:
            yield ConfigDiff(key, *texts)
