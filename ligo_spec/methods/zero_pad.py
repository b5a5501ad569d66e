"""Zero-padding: new channels carry zeros, new units are not read (Gesmundo & Maile, arXiv 2308.06103; methods 4.2).

Every new block has one silent side and one free side, so that its gradient is not zero:

- streams that a norm reads: ``B = [I; 0]``, ``A = [I; X]``; gains ``√(d/d')``, eps ``· d/d'`` (exact under RMSNorm);
- units (ffn, heads): ``B = [I; C]``, ``A = [I; 0]``.

Experts are copied in turn: a softmax over them has no silent entry.

``X`` and ``C`` take random old rows at random weights: no two new rows are alike, and a map stays as small as a copy.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.errors import PlanError
from ligo_spec.maps import Identity, Index, Kron, Map, Matrix, Select, as_select, scaled
from ligo_spec.measures import isometry
from ligo_spec.methods.width import (
    HeadSizes,
    Trio,
    Width,
    fixed_spaces,
    head_sizes,
    linked,
    named,
    place_heads,
    swapped,
    trio,
)
from ligo_spec.operator import Growth
from ligo_spec.relations import Attention


class ZeroPad(Document):
    """Options of ``zero_pad``."""

    method: Literal["zero_pad"] = "zero_pad"
    free: Literal["mix", "zero"] = "mix"
    """The free side of a new block: random old rows at random weights (it can learn), or zeros too (it is dead)."""


def width(growth: Growth, options: ZeroPad, draws: Draws) -> Width:
    """The maps of zero-padding.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions by no integer factor, or heads do not fit their groups.
    """
    family = growth.small.family
    trios = fixed_spaces(growth, options.method)
    for attention in family.relations.attention:
        trios |= _attention(growth, attention, options, draws)
    streams = {space for link in family.relations.links for space in (link.reads, link.writes)}
    experts = {routing.space for routing in family.relations.routing}
    for name in family.spaces:
        if name in trios:
            continue
        small, large = growth.small.width(name), growth.large.width(name)
        assert small is not None
        assert large is not None
        silent, free = padding(small, large), mixing(name, small, large, options, draws)
        if name in experts:  # one that is not chosen would take its share of the softmax: new ones are copies
            trios[name] = trio(Select(np.arange(large) % small, small) if large > small else Identity(small))
        elif name in streams:
            trios[name] = trio(silent, free, _gain(small, large))
        else:
            trios[name] = trio(free, silent)
    linked(growth, trios, lambda name, *pair: _tied(*pair) if name in streams else swapped(name, *pair))
    return named({name: trios[name] for name in family.spaces}, _eps(growth))


def _eps(growth: Growth) -> dict[str, float]:
    """``d/d'`` of the streams for the epsilons of the norms that read them."""
    family = growth.small.family
    ratios = {
        norm.eps: growth.ratio(norm.reads)
        for norm in family.relations.norms
        if norm.eps is not None and norm.reads in family.residuals
    }
    return {key: ratio for key, ratio in ratios.items() if ratio != 1}


def _tied(own: Trio, pair: Trio) -> Trio:
    """A space that is read by the values of a tensor that writes another one: ``A`` is that one's ``B``.

    That ``B`` is ``f [I; 0]``, so ``B = [I; 0] / f``, and the gains follow.
    """
    reads = pair.out[0]
    size = reads.shape[1]
    factor = float(reads.rows(0, size).diagonal()[0])
    if factor == 1.0:
        return Trio(pair.out, pair.out, own.gain)
    writes = (scaled(own.out[0], 1 / factor),)
    return Trio(writes, pair.out, (scaled(own.gain[0], 1 / factor),))


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
    plain_silent = padding(small.head_dim, large.head_dim)
    plain_free = mixing("head_dim", small.head_dim, large.head_dim, options, draws)
    silent, free = plain_silent, plain_free
    if attention.rotary == "half":
        silent, free = _rotary(growth, attention, small, large, options, draws)
    factor = float(np.sqrt(large.head_dim / small.head_dim)) if attention.scaled else 1.0  # softmax divides by more
    value = Kron(groups, plain_free)
    return {
        attention.query: trio(Kron(heads, scaled(silent, factor))),
        attention.key: trio(Kron(groups, free)),
        attention.value: trio(value),
        attention.context: trio(Kron(heads, plain_free), Kron(read, plain_silent)),
        **{space: trio(heads, read) for space in (attention.scores, attention.weights) if space is not None},
        **_normed(growth, attention, (groups, heads), silent, factor, draws),
    }


def _normed(
    growth: Growth, attention: Attention, units: tuple[Map, Map], silent: Map, factor: float, draws: Draws
) -> dict[str, Trio]:
    """Queries and keys that a norm stands before: silent on its input, the change of scale in its gains."""
    groups, heads = units
    small, large = head_sizes(growth, attention)
    silent_groups, silent_heads, _ = _heads(small, large, ZeroPad(free="zero"), draws)
    tensors = growth.small.family.tensors
    found: dict[str, Trio] = {}
    for norm in growth.small.family.relations.norms:
        if norm.writes not in (attention.query, attention.key):
            continue
        asks = norm.writes == attention.query
        alone = norm.per == "head"
        rows = (heads if asks else groups) if alone else (silent_heads if asks else silent_groups)
        before, after = Kron(rows, silent), Kron(rows, scaled(silent, factor if asks else 1.0))
        spread, _ = isometry(silent if alone else before, centred=norm.kind == "layer_norm")
        copied = unweighted(silent if alone else before)
        gain = scaled(copied, float(np.sqrt(spread)) * (factor if asks else 1.0))
        found[norm.reads] = trio(before)
        space = tensors[norm.gain].touches[0].space
        found[norm.writes] = trio(after, gain=gain if space == norm.writes else None)
        if space != norm.writes:
            found[space] = trio(gain)
    return found


def unweighted(map_: Map) -> Map:
    """The same entries, each taken whole: gains of silent rows are copies, since zeros could not learn."""
    chosen = as_select(map_)
    assert chosen is not None
    return map_ if isinstance(map_, Identity) else Select(chosen.index, chosen.small)


def _rotary(
    growth: Growth, attention: Attention, small: HeadSizes, large: HeadSizes, options: ZeroPad, draws: Draws
) -> tuple[Map, Map]:
    """``[I; 0]`` and ``[I; C]`` within a head whose pairs of coordinates keep their frequency (methods 4.5).

    A head ``k`` times as large turns its pair ``k p`` as the small one turns its pair ``p``.

    Raises:
        PlanError: ``k`` is no integer.
    """
    d, d_large = small.head_dim, large.head_dim
    if d == d_large:
        return Identity(d), Identity(d)
    turned, turned_large = growth.small.turning(attention), growth.large.turning(attention)
    if not turned or turned_large % turned or turned % 2:
        raise PlanError(
            f"zero_pad cannot grow head_dim {d} → {d_large} under rotary positions: {turned} → {turned_large} turning "
            f"coordinates is no integer factor, so frequencies would not meet; grow it to a multiple of {d}"
        )
    step = turned_large // turned
    pairs = np.arange(turned // 2)
    rest = np.arange(turned, d) + turned_large - turned
    place = np.concatenate([step * pairs, step * pairs + turned_large // 2, rest])
    index, weight = np.zeros(d_large, dtype=np.int64), np.zeros(d_large)
    index[place], weight[place] = np.arange(d), 1.0
    silent = Select(index, d, weight)
    if options.free == "zero":
        return silent, silent
    new = np.flatnonzero(weight == 0)
    free_index, free_weight = index.copy(), weight.copy()
    free_index[new], free_weight[new] = _random_rows("zero_pad.head_dim", d, new.size, draws)
    return silent, Select(free_index, d, free_weight)


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
