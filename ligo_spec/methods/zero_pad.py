"""Zero-padding: new channels carry zeros, new units are not read (Gesmundo & Maile, arXiv 2308.06103; methods 4.2).

Every new block has one silent side and one free side, so that its gradient is not zero:

- streams that a norm reads: ``B = [I; 0]``, ``A = [I; X]``; gains ``√(d/d')``, eps ``· d/d'`` (exact under RMSNorm);
- units (ffn, heads): ``B = [I; C]``, ``A = [I; 0]``.

``X`` and ``C`` take random old rows at random weights: no two new rows are alike, and a map stays as small as a copy.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.family import Attention
from ligo_spec.maps import Identity, Index, Kron, Map, Matrix, Select, scaled
from ligo_spec.methods.width import (
    HeadSizes,
    Trio,
    Width,
    fixed_spaces,
    head_sizes,
    named,
    place_heads,
    refuse_rotary_growth,
    tied_spaces,
    trio,
)
from ligo_spec.operator import Growth


class ZeroPad(Document):
    """Options of ``zero_pad``."""

    method: Literal["zero_pad"] = "zero_pad"
    free: Literal["mix", "zero"] = "mix"
    """The free side of a new block: random old rows at random weights (it can learn), or zeros too (it is dead)."""


def width(growth: Growth, options: ZeroPad, draws: Draws) -> Width:
    """The maps of zero-padding.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    refuse_rotary_growth(growth, options.method)
    family = growth.small.family
    trios = fixed_spaces(growth, options.method)
    for attention in family.relations.attention:
        trios |= _attention(growth, attention, options, draws)
    streams = {space for norm in family.relations.norms for space in (norm.reads, norm.writes)}
    tied = tied_spaces(growth)
    for name in family.spaces:
        if name in trios:
            continue
        small, large = growth.small.width(name), growth.large.width(name)
        assert small is not None
        assert large is not None
        silent, free = padding(small, large), mixing(name, small, large, options, draws)
        if name in streams:
            trios[name] = trio(silent, free, _gain(small, large))
        else:
            trios[name] = trio(free, silent)
    for name, other in tied.items():
        pair = trios[other]
        trios[name] = Trio(out=pair.out, in_=pair.out, gain=pair.gain)
    eps = {norm.eps: growth.ratio for norm in family.relations.norms if growth.ratio != 1}
    return named({name: trios[name] for name in family.spaces}, eps)


def padding(small: int, large: int) -> Map:
    """``[I; 0]``, ``(large, small)``."""
    if small == large:
        return Identity(small)
    weight = np.concatenate([np.ones(small), np.zeros(large - small)])
    return Select(np.arange(large) % small, small, weight)


def mixing(name: str, small: int, large: int, options: ZeroPad, draws: Draws) -> Map:
    """``[I; C]``: each row of ``C`` is a random old row times a weight from N(0, 1)."""
    if small == large:
        return Identity(small)
    if options.free == "zero":
        return padding(small, large)
    index, weight = _random_rows(f"zero_pad.{name}", small, large - small, draws)
    return Select(np.concatenate([np.arange(small), index]), small, np.concatenate([np.ones(small), weight]))


def _random_rows(name: str, small: int, count: int, draws: Draws) -> tuple[Index, Matrix]:
    generator = draws.of(name)
    return generator.integers(0, small, count), generator.standard_normal(count)


def _gain(small: int, large: int) -> Map:
    """``√(d/d')`` times the gains, those of new channels as of old ones: a gain of zero could not learn."""
    if small == large:
        return Identity(small)
    return scaled(Select(np.arange(large) % small, small), float(np.sqrt(small / large)))


def _attention(growth: Growth, attention: Attention, options: ZeroPad, draws: Draws) -> dict[str, Trio]:
    small, large = head_sizes(growth, attention)
    groups, heads, read = _heads(small, large, options, draws)
    silent, free = padding(small.head_dim, large.head_dim), _inner(small, large, options, draws)
    query = scaled(silent, float(np.sqrt(large.head_dim / small.head_dim)))  # the softmax divides by more
    value = Kron(groups, free)
    return {
        attention.query: trio(Kron(heads, query)),
        attention.key: trio(Kron(groups, free)),
        attention.value: trio(value),
        attention.context: trio(Kron(heads, free), Kron(read, silent)),
    }


def _inner(small: HeadSizes, large: HeadSizes, options: ZeroPad, draws: Draws) -> Map:
    return mixing("head_dim", small.head_dim, large.head_dim, options, draws)


def _heads(small: HeadSizes, large: HeadSizes, options: ZeroPad, draws: Draws) -> tuple[Map, Map, Map]:
    """Maps of key-value heads, of query heads, and of what reads the query heads (zero where a head is new).

    Where groups keep their room, new key-value heads are new; where they lose it, they are copies, so that every
    query head finds its own.
    """
    if large.per_group >= small.per_group:
        groups = mixing("key_value_heads", small.groups, large.groups, options, draws)
        places = np.arange(large.heads) // large.per_group, np.arange(large.heads) % large.per_group
        old = (places[0] < small.groups) & (places[1] < small.per_group)
        source = np.where(old, places[0] * small.per_group + places[1], 0)
    else:
        index = np.arange(large.groups) % small.groups
        groups = Select(index, small.groups)
        source, turn = place_heads(small, large, index)
        old = turn == 0
    if old.all():
        plain = Select(source, small.heads)
        return groups, plain, plain
    read = Select(source, small.heads, old.astype(np.float64))
    if options.free == "zero":
        return groups, read, read
    weight = np.ones(large.heads)
    source = source.copy()
    source[~old], weight[~old] = _random_rows("zero_pad.heads", small.heads, int((~old).sum()), draws)
    return groups, Select(source, small.heads, weight), read
