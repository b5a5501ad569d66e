"""Further terms of a width method: selections cut into those of some rows each, for matrices that need it.

The parts of a selection add up to it, ``Σ_t B_t = S``, so that activations are carried over as the whole says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ligo_spec.family import Role
from ligo_spec.maps import Map, Select, as_select
from ligo_spec.measures import Rows
from ligo_spec.methods.width import Choices, Follow, Part, Width
from ligo_spec.operator import Growth, SpaceMaps

_ROLES: tuple[Role, Role] = ("out", "in")


def rows_of(select: Select, rows: Rows) -> Select:
    """The selection in some of its rows, zero in the others."""
    return Select(select.index, select.small, np.where(rows, select.weights, 0.0))


def written(growth: Growth, template: str) -> str | None:
    """The space of units that a tensor writes, by its last dimension that writes one; None where there is none.

    Indices are no units, nor are experts: a softmax stands on them.
    """
    family = growth.small.family
    spaces = [space for space, role in family.tensors[template].touches if role == "out"]
    experts = {routing.space for routing in family.relations.routing}
    return spaces[-1] if spaces and spaces[-1] not in experts and not family.spaces[spaces[-1]].fixed else None


def read(growth: Growth, template: str) -> str | None:
    """The space of units that a matrix reads; None where it reads none, or several."""
    family = growth.small.family
    spaces = [space for space, role in family.tensors[template].touches if role == "in"]
    return spaces[0] if len(spaces) == 1 and not family.spaces[spaces[0]].fixed else None


def selection(width: Width, space: str) -> Select | None:
    """The selection by which a space is written; None where it is none, or no one map of all layers."""
    choices = width.maps[width.spaces[space].out]
    return as_select(choices[0]) if len(choices) == 1 else None


def part(
    growth: Growth,
    width: Width,
    tensors: frozenset[str],
    cut: tuple[Mapping[str, Map], Mapping[str, Map]],
    follow: Follow | None = None,
) -> Part:
    """A term for some tensors, with other maps where spaces are written and where they are read.

    Args:
        growth: Small and large architecture.
        width: The first term.
        tensors: Canonical templates.
        cut: By space, the maps in the roles ``out`` and ``in`` that are not the first term's.
        follow: Of its depth maps.
    """
    touched = {dim.space for template in tensors for dim in growth.small.family.tensors[template].touches}
    maps: dict[str, Choices] = {}
    spaces = {}
    for space in sorted(touched):
        whole, names = width.spaces[space], []
        for role, own in zip(_ROLES, cut, strict=True):
            name = f"{space}.{role}.part" if space in own else whole.of(role)
            maps[name] = (own[space],) if space in own else width.maps[name]
            names.append(name)
        maps[whole.gain] = width.maps[whole.gain]
        spaces[space] = SpaceMaps(names[0], names[1], whole.gain)
    return Part(maps, spaces, tensors, follow)
