"""What a fit learns: the start's arrays, or more of them, in the structure that the architecture bears (SPEC 6.1).

``learnable`` gives an operator of the same value as its start whose float arrays are what a plan's ``fit.learn`` asks
for: ``A`` and ``B`` apart, whole matrices or new rows alone, a map for every layer, one depth row a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.errors import PlanError, Problem
from ligo_spec.family import LAYER, Family, Role
from ligo_spec.kron_factors import factors
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select, arrays_of, as_select, dense, with_arrays
from ligo_spec.operator import Growth, Mix, Operator, SpaceMaps, Term, every

ROLES: tuple[Role, ...] = ("out", "in", "gain")

Place = tuple[str, Role]
"""A space and a role."""

Array = npt.NDArray[np.floating]

Choices = tuple[Map, ...]


class Learn(Document):
    """What is learned of an operator. ``start``: what the start has arrays for, shared as it shares them."""

    width: Literal["start", "two_sided", "none"] = "start"
    """``two_sided``: every space and role has a map of its own, but for what a tie makes one; ``none``: frozen."""
    structure: Literal["start", "new", "dense"] = "start"
    """``dense``: every entry is learned; ``new``: those of new rows alone. Heads stay whole where they must."""
    layers: Literal["start", "each"] = "start"
    """``each``: every large layer has maps of its own, in the spaces that layers have for themselves."""
    depth: Literal["start", "tensor", "block", "stack", "none"] = "start"
    """Which tensors share a depth map: none, those of an attention or an mlp with its norms, all; ``none``: frozen."""
    gains: Literal["start", "vector", "none"] = "start"
    """``vector``: a factor for every entry of a norm's gain."""
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Spaces whose maps stay as they start."""


@dataclass(frozen=True)
class Learnable:
    """An operator to learn.

    Args:
        operator: Of the start's value.
        frozen: Arrays of it that stay, by identity.
    """

    operator: Operator
    frozen: frozenset[int]

    @property
    def count(self) -> int:
        """How many numbers are learned."""
        arrays = {id(array): array.size for term in self.operator.terms for array in _arrays(term)}
        return sum(size for key, size in arrays.items() if key not in self.frozen)


def learnable(growth: Growth, start: Operator, learn: Learn) -> Learnable:
    """The operator that a fit works on.

    Args:
        growth: Small and large architecture.
        start: Where it begins.
        learn: What of it is learned.

    Raises:
        PlanError: ``freeze`` names a space that the family does not have, or tensors that should share a depth map
            have different ones.
    """
    family = growth.small.family
    unknown = [name for name in learn.freeze if name not in family.spaces]
    if unknown:
        raise PlanError(Problem("", f"learn.freeze: no space is named {name!r}") for name in unknown)
    terms = tuple(_Loosening(growth, term, learn, {}).term_of() for term in start.terms)
    frozen = frozenset(id(array) for term in terms for array in _frozen(family, term, learn))
    return Learnable(replace(start, terms=terms), frozen)


def _arrays(term: Term) -> Iterator[Array]:
    for choices in term.maps.values():
        yield from _arrays_of(choices)
    yield from term.depth.values()


def _arrays_of(choices: Choices) -> Iterator[Array]:
    for map_ in choices:
        yield from arrays_of(map_)


def _frozen(family: Family, term: Term, learn: Learn) -> Iterator[Array]:
    """Arrays that stay: of index spaces always, and what the plan freezes."""
    if learn.depth == "none":
        yield from term.depth.values()
    for space, names in term.spaces.items():
        if learn.width == "none" or space in learn.freeze or family.spaces[space].fixed:
            for role in ROLES:
                yield from _arrays_of(term.maps[names.of(role)])
        elif learn.gains == "none" and names.gain not in (names.out, names.in_):
            yield from _arrays_of(term.maps[names.gain])


# --- width ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loosening:
    """One term, made as free as the plan asks for."""

    growth: Growth
    term: Term
    learn: Learn
    known: dict[tuple[int, Role, int], Map]
    """What a map became, by its identity, role and layer: maps that are one in the start stay one."""

    def term_of(self) -> Term:
        names = self._names()
        maps: dict[str, Choices] = {}
        for (space, role), name in names.items():
            if name not in maps:
                maps[name] = self._choices(space, role)
        spaces = {space: SpaceMaps(*(names[space, role] for role in ROLES)) for space in self.term.spaces}
        return replace(self.term, maps=maps, spaces=spaces, depth=_depth(self.growth, self.term, self.learn))

    def _names(self) -> dict[Place, str]:
        """A name for the map of every space and role; places that share one share a map."""
        places: list[Place] = [(space, role) for space in self.term.spaces for role in ROLES]
        if self.learn.width != "two_sided":
            own = {(space, role): self.term.spaces[space].of(role) for space, role in places}
            apart = self.learn.gains == "vector"
            return {(s, r): f"{s}.gain" if apart and r == "gain" else name for (s, r), name in own.items()}
        root = {place: place for place in places}
        for one, other in _tied(self.growth):
            if one in root and other in root:
                first, second = root[one], root[other]
                root = {place: first if end == second else end for place, end in root.items()}
        return {place: ".".join(root[place]) for place in places}

    def _choices(self, space: str, role: Role) -> Choices:
        choices = self.term.maps[self.term.spaces[space].of(role)]
        declared = self.growth.small.family.spaces[space]
        if declared.fixed or self.growth.small.width(space) is None:
            return choices
        if self.learn.layers == "each" and declared.per != "model" and len(choices) == 1:
            choices = choices * self.growth.large.depth(declared.per)
        return tuple(self._map(map_, space, role, layer) for layer, map_ in enumerate(choices))

    def _map(self, map_: Map, space: str, role: Role, layer: int) -> Map:
        key = id(map_), role, layer
        if key not in self.known:
            self.known[key] = self._loosened(map_, space, role, layer)
        return self.known[key]

    def _loosened(self, map_: Map, space: str, role: Role, layer: int) -> Map:
        learn = self.learn
        if isinstance(map_, Kron) and map_.outer.shape == (1, 1):  # the same map at a factor of its own
            return Kron(with_arrays(map_.outer, np.copy), self._map(map_.inner, space, role, layer))
        if role == "gain" and learn.gains == "vector":
            return _weighted(map_)
        if learn.structure == "start" or learn.width == "none" or space in learn.freeze:
            return map_ if learn.width != "two_sided" and learn.layers == "start" else with_arrays(map_, np.copy)
        heads = _whole_heads(self.growth, space)
        if heads is None:
            return _rows(map_, learn.structure)
        parts = factors(map_, heads.shape)
        if parts is None:
            return with_arrays(map_, np.copy)
        outer, inner = parts
        kept = heads.turning or isinstance(inner, Identity)
        within = with_arrays(inner, np.copy) if kept else _rows(inner, learn.structure)
        return Kron(_rows(outer, learn.structure), within)


def _tied(growth: Growth) -> Iterator[tuple[Place, Place]]:
    """Spaces and roles that must have one map, because tied tensors use them."""
    tensors = growth.small.family.tensors
    for first, *others in growth.small.ties:
        for other in others:
            for one, two in zip(tensors[first].touches, tensors[other].touches, strict=True):
                yield (one.space, one.role), (two.space, two.role)


def _weighted(map_: Map) -> Map:
    """A factor for every large entry, where each copies one small entry."""
    chosen = as_select(map_)
    return with_arrays(map_, np.copy) if chosen is None else Select(chosen.index, chosen.small, chosen.weights)


def _rows(map_: Map, structure: str) -> Map:
    """All of a matrix, or its new rows alone, as a dense array."""
    large, small = map_.shape
    if structure == "dense":
        return Dense(dense(map_))
    if large == small:
        return with_arrays(map_, np.copy)
    top = map_.rows(0, small)
    old: Map = Identity(small) if np.array_equal(top, np.eye(small)) else Dense(top)
    return Blocks((old, Dense(map_.rows(small, large))))


class _Heads(NamedTuple):
    """Heads of a space that must stay whole: how many (large, small), and whether entries within one turn."""

    shape: tuple[int, int]
    turning: bool


def _whole_heads(growth: Growth, space: str) -> _Heads | None:
    """The heads of a space, where positions are rotary or heads grouped; else None."""
    family = growth.small.family
    for attention in family.relations.attention:
        if space not in (attention.query, attention.key, attention.value, attention.context):
            continue
        asks, answers = (family.spaces[name].axes[0] for name in (attention.query, attention.key))
        grouped = any(model.sizes[asks] != model.sizes[answers] for model in (growth.small, growth.large))
        if attention.rotary == "none" and not grouped:
            return None
        axis = family.spaces[space].axes[0]
        turning = attention.rotary != "none" and space in (attention.query, attention.key)
        return _Heads((growth.large.sizes[axis], growth.small.sizes[axis]), turning)
    return None


# --- depth ------------------------------------------------------------------------------------------------------------


def _depth(growth: Growth, term: Term, learn: Learn) -> Mapping[str, Mix]:
    if learn.depth in ("start", "none"):
        return term.depth
    family = growth.small.family
    found: dict[str, Mix] = {}
    rows: dict[str, Mix] = {}
    for name in family.tensors:
        stack = family.stack_of(name)
        if stack is None or not term.has_depth(name):
            continue
        mix = term.mix(name)
        group = {"tensor": name, "stack": every(stack), "block": _block(family, name)}[learn.depth]
        if group not in rows:
            rows[group] = mix.copy()
        elif not np.array_equal(rows[group], mix):
            rows[group] = mix.copy() if learn.depth == "tensor" else _differ(group, name)
        found[name] = rows[group]
    return found


def _differ(group: str, name: str) -> Mix:
    raise PlanError(
        f"learn.depth: tensors of {group} have different depth maps in the start ({name}); "
        "share them in the start too (noise: 0 in noisy_stack), or say depth: tensor"
    )


def _block(family: Family, name: str) -> str:
    """The part of a layer that a tensor belongs to: ``layers.attn`` for ``layers.{i}.attn_norm.weight``."""
    stack, _, rest = name.partition(f".{LAYER}.")
    return f"{stack}.{rest.partition('.')[0].partition('_')[0]}"
