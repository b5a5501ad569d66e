"""A comparison in few lines: layers and experts that fare alike are one row, with the worst of their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ligo_spec.diff import Diff, TensorDiff, Verdict
from ligo_spec.diff_sides import Stored
from ligo_spec.difference import Difference

_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|\[|$)|(?<=\[)[0-9]+(?=\])")


@dataclass(frozen=True)
class Row:
    """One or more tensors that fare alike.

    Args:
        name: As in `TensorDiff`, with ``{0..11}`` for the layers.
        verdict: Of all of them.
        a: What A's file calls it, dtype and shape; None where A has none.
        b: The same of B.
        count: How many tensors.
        worst: The largest of their differences, number by number.
    """

    name: str
    verdict: Verdict
    a: Stored | None
    b: Stored | None
    count: int
    worst: Difference | None


def folded(found: Diff) -> list[Row]:
    """The rows of a table, in the order of the first tensor of each."""
    groups: dict[Any, list[TensorDiff]] = {}
    for item in found.tensors:
        groups.setdefault(_alike(item), []).append(item)
    return [row for items in groups.values() for row in (_row(part) for part in _whole(items))]


def worst(found: Iterable[Difference]) -> Difference:
    """The largest difference, number by number; entries that are not finite are counted together."""
    items = list(found)
    shares = [item.max_rel for item in items if item.max_rel is not None]
    cosines = [item.cosine for item in items if item.cosine is not None]
    return Difference(
        max(item.max_abs for item in items),
        max(shares, default=None),
        max(item.share for item in items),
        min(cosines, default=None),
        sum(item.nonfinite for item in items),
    )


def _alike(item: TensorDiff) -> tuple[object, ...]:
    """What tensors of one row have in common; numbers that the two files place apart keep them apart."""
    stored = [(None, None, None) if s is None else (_blank(s.name), s.dtype, s.shape) for s in (item.a, item.b)]
    numbers = [_NUMBER.findall(s.name) for s in (item.a, item.b) if s is not None]
    apart = None if all(found == numbers[0] for found in numbers) else str(numbers)
    return _blank(item.name), item.verdict, *stored, apart


def _blank(name: str) -> str:
    return _NUMBER.sub("{}", name)


def _whole(items: list[TensorDiff], place: int = 0) -> list[list[TensorDiff]]:
    """The group itself where it is every combination of its numbers, else a part for each number in a place."""
    numbers = [_NUMBER.findall(item.name) for item in items]
    if len(items) == prod(len({*column}) for column in zip(*numbers, strict=True)):
        return [items]
    parts: dict[str, list[TensorDiff]] = {}
    for item, found in zip(items, numbers, strict=True):
        parts.setdefault(found[place], []).append(item)
    return [whole for part in parts.values() for whole in _whole(part, place + 1)]


def _row(items: Sequence[TensorDiff]) -> Row:
    first = items[0]
    numbers = [item.difference for item in items if item.difference is not None]
    a, b = (
        None if stored[0] is None else Stored(_named([s.name for s in stored if s]), stored[0].dtype, stored[0].shape)
        for stored in ([item.a for item in items], [item.b for item in items])
    )
    return Row(
        _named([item.name for item in items]), first.verdict, a, b, len(items), worst(numbers) if numbers else None
    )


def _named(names: Sequence[str]) -> str:
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    texts = iter([_ranges(sorted({int(number) for number in column})) for column in columns])
    return _NUMBER.sub(lambda match: next(texts), names[0])


def _ranges(numbers: Sequence[int]) -> str:
    """``3``, ``{0..11}`` or ``{0..2,5}``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return texts[0] if len(numbers) == 1 else "{" + ",".join(texts) + "}"
