"""What every width method shares: pairs of maps per space, named so that what is one map stays one map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ligo_spec.errors import PlanError, Problem
from ligo_spec.family import EVERY, Family, Repeat
from ligo_spec.maps import Dense, Identity, Index, Kron, Map, Select, scaled, stack
from ligo_spec.methods.shares import Share, counts, evenly, sums, weighted
from ligo_spec.operator import Growth, Mix, SpaceMaps, Term
from ligo_spec.relations import Attention, Multiplier

Choices = tuple[Map, ...]
"""One map for all layers, or one per layer of the large model."""


Follow = Callable[[str, Mix], Mix]
"""``(stack, D)`` -> the depth map of a further term, from the one that the depth method gives."""


@dataclass(frozen=True, eq=False)
class Part:
    """A further term, for some tensors, which the first term then leaves to its parts (SPEC.md 3.3).

    Args:
        maps: By name; those of the spaces that its tensors touch.
        spaces: Whose roles use them.
        tensors: Canonical templates.
        follow: Its depth maps; the depth method's own where it is left out.
    """

    maps: Mapping[str, Choices]
    spaces: Mapping[str, SpaceMaps]
    tensors: frozenset[str]
    follow: Follow | None = None

    def depth(self, family: Family, mixes: Mapping[str, Mix]) -> dict[str, Mix]:
        """Its depth maps, for its own tensors."""
        own = {key: mix for key, mix in mixes.items() if key in self.tensors or key.endswith(EVERY)}
        if self.follow is None:
            return own
        return {key: self.follow(str(family.stack_of_key(key)), mix) for key, mix in own.items()}


@dataclass(frozen=True, eq=False)
class Width:
    """What a width method gives: named maps, who uses them, factors of the norms' epsilons, and further terms."""

    maps: Mapping[str, Choices]
    spaces: Mapping[str, SpaceMaps]
    eps_scale: Mapping[str, float]
    parts: tuple[Part, ...] = ()

    def terms(self, family: Family, mixes: Mapping[str, Mix]) -> tuple[Term, ...]:
        """The terms of the operator whose layers are mixed so: one, and one a part."""
        left = frozenset().union(*(part.tensors for part in self.parts))
        main = Term(self.maps, self.spaces, mixes, frozenset(family.tensors.keys() - left) if left else None)
        more = (Term(part.maps, part.spaces, part.depth(family, mixes), part.tensors) for part in self.parts)
        return (main, *more)


@dataclass(frozen=True, eq=False)
class Trio:
    """The maps of one space. Those that are one object are one map (tied)."""

    out: Choices
    in_: Choices
    gain: Choices


def trio(out: Map, in_: Map | None = None, gain: Map | None = None) -> Trio:
    """Maps shared by all layers; the gain map is the out map where it is not given, and so is the in map."""
    shared = (out,)
    reads = shared if in_ is None or in_ is out else (in_,)
    gains = shared if gain is None or gain is out else (gain,)
    return Trio(shared, reads, gains)


def named(trios: Mapping[str, Trio], eps_scale: Mapping[str, float] | None = None) -> Width:
    """Give every distinct map a name: that of the first space that uses it, and the role unless all are one."""
    names: dict[int, str] = {}
    maps: dict[str, Choices] = {}
    spaces: dict[str, SpaceMaps] = {}
    for space, three in trios.items():
        used = []
        whole = three.out is three.in_ is three.gain
        for role, choices in (("out", three.out), ("in", three.in_), ("gain", three.gain)):
            name = names.setdefault(id(choices), space if whole else f"{space}.{role}")
            maps[name] = choices
            used.append(name)
        spaces[space] = SpaceMaps(*used)
    return Width(maps, spaces, dict(eps_scale or {}))


def fixed_spaces(growth: Growth, method: str) -> dict[str, Trio]:
    """Maps for the spaces whose entries are indices: old entries stay, new ones are what the family says of them.

    Raises:
        PlanError: One of them grows and the family has no rule for new entries.
    """
    trios, problems = {}, []
    for name, space in growth.small.family.spaces.items():
        if not space.fixed:
            continue
        small, large = growth.small.width(name), growth.large.width(name)
        if small is None or large is None or small == large:
            trios[name] = trio(Identity(small or 1))
        elif space.new is None:
            axes = "×".join(space.axes)
            message = f"{method} has no rule for {axes} ({small} → {large}): its entries are indices with a meaning of"
            problems.append(Problem("", f"{message} their own"))
        else:
            trios[name] = trio(with_new_entries(space.new, small, large))
    if problems:
        raise PlanError(problems)
    return trios


def with_new_entries(rule: Literal["mean"] | Repeat, small: int, large: int) -> Map:
    """``[I; C]``, ``(large, small)``: ``C`` has the mean in every row (methods 4.10), or rows of the old in turn."""
    if rule == "mean":
        mean = Dense(np.full((1, small), 1 / small))
        every_new = Select(np.zeros(large - small, dtype=np.int64), 1)
        return stack([Identity(small), Kron(every_new, mean)])
    first = min(rule.repeat, small - 1)
    new = first + (np.arange(small, large) - first) % (small - first)
    return Select(np.concatenate([np.arange(small), new]).astype(np.int64), small)


def tied_spaces(growth: Growth) -> dict[str, str]:
    """Spaces whose ``in`` map must be another's ``out`` map, because the tensors that use them are tied.

    For tied embeddings: ``{"final": "residual"}``, since the head reads ``final`` with the values of the embedding,
    which writes ``residual``.
    """
    tied: dict[str, str] = {}
    tensors = growth.small.family.tensors
    for first, *others in growth.small.ties:
        for other in others:
            for ours, theirs in zip(tensors[first].touches, tensors[other].touches, strict=True):
                if (ours.role, theirs.role) == ("out", "in") and ours.space != theirs.space:
                    tied[theirs.space] = ours.space
    return tied


def raw_spaces(growth: Growth) -> dict[str, str]:
    """Spaces of heads before a norm, by the query or key space that the norm writes: ``{"query_raw": "query"}``."""
    heads = {space for a in growth.small.family.relations.attention for space in (a.query, a.key)}
    return {norm.reads: norm.writes for norm in growth.small.family.relations.norms if norm.writes in heads}


def linked(growth: Growth, trios: dict[str, Trio], tie: Callable[[str, Trio, Trio], Trio]) -> None:
    """Settle spaces whose maps follow from another's: those of tied tensors, and those before a root of a size.

    What a tie leads to may be multiplied by a root, and the other way round; each comes after what it needs.

    Args:
        growth: Small and large architecture.
        trios: Of all spaces; changed in place.
        tie: From a tied space's name, its own maps and those of the space that the shared tensor writes, to its maps.
    """
    ties = tied_spaces(growth)
    multipliers = growth.small.family.relations.multipliers
    for multiplier in multipliers:
        if multiplier.writes not in ties:
            trios[multiplier.reads] = before_root(growth, multiplier, trios[multiplier.writes])
    for name, other in ties.items():
        trios[name] = tie(name, trios[name], trios[other])
    for multiplier in multipliers:
        if multiplier.writes in ties:
            trios[multiplier.reads] = before_root(growth, multiplier, trios[multiplier.writes])


def swapped(name: str, own: Trio, pair: Trio) -> Trio:
    """The maps of a tied space that swaps the pair of the other one (SPEC 5.5)."""
    return Trio(out=pair.in_, in_=pair.out, gain=pair.in_)


def before_root(growth: Growth, multiplier: Multiplier, after: Trio) -> Trio:
    """The maps of what a root of a size multiplies: smaller than those after it, by as much as the root grows."""
    factor = root_factor(growth, multiplier)
    smaller = tuple(scaled(map_, factor) for map_ in after.out)
    gain = smaller if after.gain is after.out else tuple(scaled(map_, factor) for map_ in after.gain)
    return Trio(smaller, tuple(scaled(map_, 1 / factor) for map_ in after.in_), gain)


def root_factor(growth: Growth, multiplier: Multiplier) -> float:
    """``√(d/d')`` of the size whose root multiplies a space; ``√(d'/d)`` where the root divides it."""
    size = multiplier.root_of
    factor = float(np.sqrt(growth.small.sizes[size] / growth.large.sizes[size]))
    return 1 / factor if multiplier.inverse else factor


def refuse_rotary_growth(growth: Growth, method: str) -> None:
    """Refuse to grow ``head_dim`` under rotary positions.

    Raises:
        PlanError: It grows: rows would leave the frequency that they were trained at (methods 4.5).
    """
    normed = set(raw_spaces(growth).values())
    for attention in growth.small.family.relations.attention:
        small, large = head_sizes(growth, attention)
        if small.head_dim != large.head_dim and {attention.query, attention.key} & normed:
            raise PlanError(
                f"{method} cannot grow head_dim ({small.head_dim} → {large.head_dim}) under norms of queries and keys, "
                "which undo the change of scale; keep head_dim and grow num_attention_heads, or use zero_pad"
            )
        if attention.rotary != "none" and small.head_dim != large.head_dim:
            raise PlanError(
                f"{method} cannot grow head_dim ({small.head_dim} → {large.head_dim}) under rotary positions: rows "
                "would leave the frequency that they were trained at; keep head_dim and grow num_attention_heads, or "
                "use zero_pad at an integer factor"
            )


@dataclass(frozen=True)
class HeadSizes:
    """The sizes of one attention: query heads, key-value heads, and the size of a head."""

    heads: int
    groups: int
    head_dim: int

    @property
    def per_group(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.groups


def head_sizes(growth: Growth, attention: Attention) -> tuple[HeadSizes, HeadSizes]:
    """The small and the large sizes of an attention relation."""
    query = growth.small.family.spaces[attention.query].axes
    groups = growth.small.family.spaces[attention.key].axes[0]
    small, large = (
        HeadSizes(a.sizes[query[0]], a.sizes[groups], a.sizes[query[1]]) for a in (growth.small, growth.large)
    )
    return small, large


def place_heads(small: HeadSizes, large: HeadSizes, groups: Index) -> tuple[Index, Index]:
    """Where each query head of the large model comes from, so that its key-value head comes from the same group.

    The rule of methods 4.4: ``t(g'(h')) = g(s(h'))``. The slots under the copies of a group take that group's heads
    in turn.

    Args:
        small: Sizes of the small attention.
        large: Sizes of the large attention.
        groups: ``t``, ``(large.groups,)``: the small key-value head behind each large one.

    Returns:
        ``s``, ``(large.heads,)``, and how often each slot's head has been placed before (0 for the first time).

    Raises:
        PlanError: A group has fewer slots than heads.
    """
    source = np.empty(large.heads, dtype=np.int64)
    turn = np.empty(large.heads, dtype=np.int64)
    group_of_slot = groups[np.arange(large.heads) // large.per_group]
    for group in range(small.groups):
        slots = np.flatnonzero(group_of_slot == group)
        if slots.size < small.per_group:
            raise PlanError(
                f"num_attention_heads {large.heads} over num_key_value_heads {large.groups} leaves {slots.size} places "
                f"for the {small.per_group} query heads of key-value head {group}; grow num_attention_heads further"
            )
        place = np.arange(slots.size)
        source[slots] = group * small.per_group + place % small.per_group
        turn[slots] = place // small.per_group
    return source, turn


Choose = Callable[[str, int, int], Index]
"""``(axis, small, large)`` -> the small entry behind each large one."""


def in_turn(axis: str, small: int, large: int) -> Index:
    """Old entries one after another, and again from the first: as equally often as the sizes allow."""
    return np.arange(large) % small


def copies(growth: Growth, method: str, choose: Choose, share: Share = evenly) -> dict[str, Trio]:
    """Maps of a method that copies entries: ``B = S``, ``A = S / counts``, for every space (methods 3.1, 4.1).

    Query and key rows share the softmax's change of scale; a tied space swaps its pair, so that one tensor serves
    both (SPEC 5.5).

    Args:
        growth: Small and large architecture.
        method: For messages.
        choose: Picks the copies along one axis.
        share: Divides what is read among the copies; evenly where it is left out.

    Raises:
        PlanError: Something has no rule.
    """
    refuse_rotary_growth(growth, method)
    trios = fixed_spaces(growth, method)
    family = growth.small.family
    axes = {
        axis: Select(choose(axis, growth.small.sizes[axis], growth.large.sizes[axis]), growth.small.sizes[axis])
        for name, space in family.spaces.items()
        if name not in trios
        for axis in space.axes
    }
    for attention in family.relations.attention:
        trios |= _attention_copies(growth, attention, axes, share)
    for name, space in family.spaces.items():
        if name not in trios:
            trios[name] = split(name, product([axes[axis] for axis in space.axes]), share)
    linked(growth, trios, swapped)
    return {name: trios[name] for name in family.spaces}


def _attention_copies(growth: Growth, attention: Attention, axes: dict[str, Select], share: Share) -> dict[str, Trio]:
    small, large = head_sizes(growth, attention)
    spaces = growth.small.family.spaces
    groups, inner = (axes[axis] for axis in spaces[attention.key].axes)
    if large.per_group < small.per_group:  # only even copies leave every query head a place
        groups = Select(np.arange(large.groups) % small.groups, small.groups)
    heads = Select(place_heads(small, large, groups.index)[0], small.heads)
    rows = {attention.key: groups, attention.query: heads}
    before = {raw: trio(product([rows[to], inner])) for raw, to in raw_spaces(growth).items() if to in rows}
    # q'·k' sums counts[j] copies of every product and is divided by sqrt(d') where it was divided by sqrt(d)
    factor = np.sqrt(large.head_dim / small.head_dim) if attention.scaled else 1.0
    root = np.sqrt(factor / counts(inner))[inner.index]
    parted = share(attention.query, inner).weights  # two copies that score alike would never part: queries take shares
    parted = parted * counts(inner)[inner.index] / sums(inner.index, parted, inner.small)[inner.index]
    return {
        **before,
        **{space: split(space, heads, share) for space in (attention.scores, attention.weights) if space is not None},
        attention.query: trio(product([heads, weighted(inner, root * parted)])),
        attention.key: trio(product([groups, weighted(inner, root)])),
        attention.value: trio(product([groups, inner])),
        attention.context: split(attention.context, product([heads, inner]), share),
    }


def product(parts: list[Select]) -> Select:
    """The selection on a space whose axes are selected by ``parts``, outermost first."""
    index, small = parts[0].index, parts[0].small
    weights = parts[0].weights
    for part in parts[1:]:
        index = (index[:, None] * part.small + part.index[None, :]).ravel()
        weights = np.outer(weights, part.weights).ravel()
        small *= part.small
    return weighted(Select(index, small), weights)


def split(space: str, select: Select, share: Share) -> Trio:
    """A copying pair: ``B = S``, and ``A`` as the readers share it."""
    return trio(select, share(space, select), select)
