"""Copies that training cannot part: units of the large model that get equal gradients for ever (SPEC.md 5.9).

Two units are **alike** if exchanging them leaves every tensor as it is: their rows are equal in every map that touches
their space, written, read and as gains, in every term. The loss is then the same function of both, so their gradients
are equal at every step, and so is every update that depends on gradients alone (SGD, Adam, Muon). Dropout apart, they
stay one unit. Read off the maps; no weight is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ligo_spec.family import Family
from ligo_spec.maps import Map, as_select, row_blocks
from ligo_spec.operator import Growth, Operator
from ligo_spec.relations import Attention

Labels = npt.NDArray[np.int64]
"""One row a unit: units with equal rows are alike."""


@dataclass(frozen=True)
class Alike:
    """Units that are alike.

    Args:
        where: The space whose units they are, or the first of the spaces that share them.
        kind: What one of them is: a unit of the space, or a whole head of it.
        units: How many units have another one that is alike.
        distinct: How many different ones there are among these.
        of: How many units there are in all.
    """

    where: str
    kind: str
    units: int
    distinct: int
    of: int

    def __str__(self) -> str:
        different = "alike" if self.distinct == 1 else f"{self.distinct} different ones, copied"
        return f"{self.where}: {self.units} of {self.of} {self.kind}s are {different}"


def alike(growth: Growth, operator: Operator, templates: Collection[str] | None = None) -> list[Alike]:
    """Units of the large model that get equal gradients for ever; none where the copies part or nothing is copied.

    Args:
        growth: Small and large architecture.
        operator: One that fits them (``check_operator``).
        templates: Canonical templates of the tensors that the model has; all where it is left out.
    """
    if templates is not None:
        growth = growth.only(templates)
    rows = _Rows(growth.small.family, operator)
    return [item for item in (*_channels(growth, rows), *_heads(growth, rows)) if item.units]


@dataclass(frozen=True)
class _Rows:
    family: Family
    operator: Operator

    def layers(self, *spaces: str) -> list[int | None]:
        """The layers whose maps differ: one where all are shared."""
        counts = {len(choices) for space in spaces for choices in self._maps(space)}
        return [None] if counts <= {1} else list(range(max(counts)))

    def labels(self, space: str, layer: int | None) -> Labels:
        """``(units, maps)``: equal numbers where a map has equal rows, for each map through which it is touched."""
        found = [choices[0] if len(choices) == 1 or layer is None else choices[layer] for choices in self._maps(space)]
        return np.stack([row_labels(map_) for map_ in found], axis=1) if found else np.zeros((0, 0), dtype=np.int64)

    def _maps(self, space: str) -> Iterator[tuple[Map, ...]]:
        for role in ("out", "in", "gain"):
            named = [n for n, tensor in self.family.tensors.items() if (space, role) in tensor.touches]
            for term in self.operator.terms:
                if any(map(term.serves, named)):
                    yield term.maps[term.spaces[space].of(role)]


def row_labels(map_: Map) -> Labels:
    """A number for every row of a map, the same for equal rows, ``(large,)``."""
    select = as_select(map_)
    if select is not None:
        weights = select.weights
        rows = np.stack([np.where(weights != 0, select.index, -1).astype(np.float64), weights], axis=1)
        return _classes(rows)
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(row.tobytes(), len(known)) for _, rows in row_blocks(map_) for row in rows])


def _classes(rows: npt.NDArray[np.float64] | Labels) -> Labels:
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _channels(growth: Growth, rows: _Rows) -> Iterator[Alike]:
    """Units of spaces; those of spaces that norms and factors carry over to one another go together."""
    family = growth.small.family
    heads = {space for attention in family.relations.attention for space in _spaces(family, attention)}
    for group in _linked(family):
        sizes = {growth.large.width(space) for space in group}
        if len(sizes) > 1 or None in sizes or any(family.spaces[space].fixed or space in heads for space in group):
            continue
        found = [_same(np.concatenate([rows.labels(s, i) for s in group], axis=1)) for i in rows.layers(*group)]
        yield _worst(group[0], "unit", found)


def _heads(growth: Growth, rows: _Rows) -> Iterator[Alike]:
    """Key-value heads with all their query heads, and query heads that share a key-value head."""
    family = growth.small.family
    for attention in family.relations.attention:
        heads_axis, groups_axis = (family.spaces[space].axes[0] for space in (attention.query, attention.key))
        heads, groups = growth.large.sizes[heads_axis], growth.large.sizes[groups_axis]
        spaces = _spaces(family, attention)
        asking = [space for space in spaces if family.spaces[space].axes[0] == heads_axis]
        layers = rows.layers(*spaces)
        whole = [[rows.labels(space, layer).reshape(groups, -1) for space in spaces] for layer in layers]
        yield _worst(attention.key, "head", [_same(np.concatenate(labels, axis=1)) for labels in whole])
        if heads > groups:
            group_of = (np.arange(heads) // (heads // groups))[:, None]
            single = [[rows.labels(space, layer).reshape(heads, -1) for space in asking] for layer in layers]
            found = [_same(np.concatenate([*labels, group_of], axis=1)) for labels in single]
            yield _worst(attention.query, "head", found)


def _spaces(family: Family, attention: Attention) -> list[str]:
    """The spaces of an attention that have whole heads, those before norms of queries and keys too."""
    own = [attention.query, attention.key, attention.value, attention.context, attention.scores, attention.weights]
    named = [space for space in own if space is not None]
    return named + [norm.reads for norm in family.relations.norms if norm.writes in named]


def _linked(family: Family) -> list[list[str]]:
    """Spaces whose units are exchanged together, each once."""
    groups = [{space} for space in family.spaces]
    relations = family.relations
    pairs = [{link.reads, link.writes} for link in relations.links]
    pairs += [{norm.reads, family.tensors[norm.gain].touches[0].space} for norm in relations.norms]
    pairs += [{scale.reads, family.tensors[scale.gain].touches[0].space} for scale in relations.scales]
    for pair in pairs:
        joined = set().union(*(group for group in groups if group & pair))
        groups = [*(group for group in groups if not group & pair), joined]
    return [[space for space in family.spaces if space in group] for group in groups]


def _same(labels: Labels) -> tuple[int, int, int]:
    """How many units are like another one, how many different ones these are, and how many units there are."""
    if not labels.shape[1]:
        return 0, 0, len(labels)
    often = np.bincount(_classes(labels))
    return int(often[often > 1].sum()), int((often > 1).sum()), len(labels)


def _worst(where: str, kind: str, layers: list[tuple[int, int, int]]) -> Alike:
    return Alike(where, kind, *max(layers))
