"""Where the parameters of a grown model come from, by the names that its file uses (SPEC 7.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ligo_spec.family import LAYER, Dim, Family
from ligo_spec.file_layout import EXPERT
from ligo_spec.layer_kinds import sources
from ligo_spec.layout import Cut, Slot
from ligo_spec.maps import Identity, Map, as_select
from ligo_spec.measures import nonzero_rows
from ligo_spec.operator import Growth, Operator
from ligo_spec.outputs import Outputs
from ligo_spec.silence import silent

Rows = npt.NDArray[np.bool_]
Kind = Literal["copied", "mixed", "new"]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the large file comes from.

    Args:
        name: In the file; ``*`` for the numbers of layers and experts where all are alike.
        kind: ``copied``: every old entry is one small entry, perhaps times a factor; ``mixed``: some are sums of
            several; ``new``: there is no old entry.
        factor: What small entries are multiplied by, where it is one number for all.
        new: By dimension of the file's tensor, the ranges of rows that are new; the last one is left out of a range.
        silent: It is in a layer that adds nothing yet.
    """

    name: str
    kind: Kind
    factor: float | None
    new: Mapping[int, Ranges]
    silent: bool


def origins(outputs: Outputs, growth: Growth, operator: Operator) -> dict[str, Origin]:
    """The origin of every tensor of the large file that the family declares, by its name there."""
    family = growth.small.family
    main = {stack: sources(operator.main, family, stack) for stack in family.stacks if _has_layers(family, stack)}
    quiet = {
        (stack, layer)
        for stack, places in main.items()
        for layer, source in enumerate(places)
        if silent(operator, family, stack, layer, source)
    }
    found = {}
    for name, slot in outputs.slots.items():
        stack = family.stack_of(slot.canonical[0])
        parts = [_part(growth, operator, template, slot) for template in slot.canonical]
        found[name] = replace(_joined(slot, parts), name=name, silent=(stack, slot.layer) in quiet)
    return found


def folded(found: Mapping[str, Origin], slots: Mapping[str, Slot]) -> list[Origin]:
    """Origins with one entry for all layers and experts where they are alike."""
    groups: dict[str, list[Origin]] = {}
    for name, origin in found.items():
        pattern = slots[name].template.replace(LAYER, "*").replace(EXPERT, "*")
        groups.setdefault(pattern, []).append(origin)
    rows: list[Origin] = []
    for pattern, members in groups.items():
        alike = all(replace(member, name=pattern) == replace(members[0], name=pattern) for member in members)
        rows += [replace(members[0], name=pattern)] if alike and len(members) > 1 else members
    return rows


@dataclass(frozen=True, eq=False)
class _Part:
    """One canonical tensor: its kind, its factor, and the new rows of every dimension that a file's tensor has."""

    kind: Kind
    factor: float | None
    new: tuple[Rows, ...]


def _has_layers(family: Family, stack: str) -> bool:
    return any(family.stack_of(name) == stack for name in family.tensors)


def _part(growth: Growth, operator: Operator, template: str, slot: Slot) -> _Part:
    touches = growth.small.family.tensors[template].touches
    terms = operator.terms_of(template)
    rows = [_new_rows(growth, operator, dim, slot.layer) for dim in touches]
    weights = [np.ones(1) if slot.layer is None else term.mix(template)[slot.layer] for term in terms]
    nothing = not any(row.any() for row in weights) or any(row.size and row.all() for row in rows)
    if slot.expert is not None:  # a file's tensor is a slice of the canonical one
        nothing |= bool(rows[0].size and rows[0][slot.expert])
        rows = rows[1:]
    if nothing:
        return _Part("new", None, tuple(rows))
    maps = [terms[0].map(dim.space, dim.role, slot.layer) for dim in touches]
    one = len(terms) == 1 and np.count_nonzero(weights[0]) == 1
    if not one or any(as_select(map_) is None for map_ in _without_new(maps, touches, growth)):
        return _Part("mixed", None, tuple(rows))
    factors = [_factor(map_) for map_ in _without_new(maps, touches, growth)]
    known = [float(weights[0][np.flatnonzero(weights[0])[0]]), *(f for f in factors if f is not None)]
    return _Part("copied", float(np.prod(known)) if len(known) == len(factors) + 1 else None, tuple(rows))


def _without_new(maps: list[Map], touches: tuple[Dim, ...], growth: Growth) -> list[Map]:
    """The maps of a tensor's dimensions; those of indices only say what new entries are."""
    spaces = growth.small.family.spaces
    return [Identity(1) if spaces[d.space].fixed else map_ for map_, d in zip(maps, touches, strict=True)]


def _factor(map_: Map) -> float | None:
    """The one weight of a selection's rows that are not zero."""
    chosen = as_select(map_)
    found = set() if chosen is None else {round(float(weight), 12) for weight in np.unique(chosen.weights) if weight}
    return found.pop() if len(found) == 1 else None


def _new_rows(growth: Growth, operator: Operator, dim: Dim, layer: int | None) -> Rows:
    """Rows that come from nothing: new indices, and where one side of a space is zero and the other free (SPEC 4.3)."""
    family, term = growth.small.family, operator.main
    small, large = growth.small.width(dim.space), growth.large.width(dim.space)
    if small is None or large is None or small == large:
        return np.zeros(large or 0, dtype=np.bool_)
    if family.spaces[dim.space].fixed:
        found: Rows = np.arange(large) >= small
        return found
    writes = nonzero_rows(term.map(dim.space, "gain" if dim.role == "gain" else "out", layer))
    if dim.role == "gain" or not family.readers(dim.space):
        return ~writes
    terms = [term for name in family.readers(dim.space) for term in operator.terms_of(name)]
    reads = np.logical_or.reduce([nonzero_rows(each.map(dim.space, "in", layer)) for each in terms])
    live: Rows = writes & reads
    return ~live


def _joined(slot: Slot, parts: list[_Part]) -> Origin:
    """The origin of a file's tensor from those of the canonical tensors in it."""
    kinds = {part.kind for part in parts} - {"new"}
    kind: Kind = "new" if not kinds else "mixed" if "mixed" in kinds else "copied"
    factors = {part.factor for part in parts if part.kind != "new"}
    new = {} if kind == "new" else dict(_file_ranges(slot, parts))
    return Origin(slot.name, kind, factors.pop() if len(factors) == 1 else None, new, False)


def _file_ranges(slot: Slot, parts: list[_Part]) -> Iterator[tuple[int, Ranges]]:
    """New rows by dimension of the file's tensor: parts lie one after another along one of them, groups in turn."""
    turned = sum(step == "transpose" for step in slot.steps) % 2
    cut = next((step for step in slot.steps if isinstance(step, Cut)), None)
    sides = len(parts[0].new)
    for axis in range(sides):
        rows = [part.new[axis] for part in parts]
        if cut is not None and axis == (sides - 1 if _cut_last(slot) else 0):
            split = [row.reshape(cut.groups, -1) for row in rows]
            row = np.concatenate(split, axis=1).ravel()
        else:
            row = rows[0]
        found = _ranges(row)
        if found:
            yield (sides - 1 - axis if turned else axis), found


def _cut_last(slot: Slot) -> bool:
    """Whether parts that are cut apart are transposed afterwards, so that the cut is along their last dimension."""
    place = next(number for number, step in enumerate(slot.steps) if isinstance(step, Cut))
    return bool(sum(step == "transpose" for step in slot.steps[place + 1 :]) % 2)


def _ranges(rows: Rows) -> Ranges:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
    return tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
