"""What attention makes of gradients, head by head: ``E`` of what it reads, ``F`` of what it writes (SPEC 7.5).

A large head that is read with the share ``α`` of its small one has ``δ_scores' = α δ_scores``. So queries get ``α``
times the keys' map, and the other way round; a key or value head gets the sum over the query heads that share it, which
is a multiple of the small one's gradient only if every query head of the group has the same part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ligo_spec.maps import Matrix
from ligo_spec.operator import Growth, Term
from ligo_spec.relations import Attention
from ligo_spec.selected_rows import Rows, SelectedRows, close, selected


@dataclass(frozen=True, eq=False)
class _Heads:
    """A selection on heads × entries: small head, entry and weight, ``(heads', d')``."""

    head: Any
    entry: Any
    weight: Any

    @classmethod
    def of(cls, rows: SelectedRows, d: int, d_large: int) -> _Heads:
        index, weight = rows.index.reshape(-1, d_large), rows.weight.reshape(-1, d_large)
        return cls(index // d, index % d, weight)

    def at(self, heads: Any) -> _Heads:
        return _Heads(self.head[heads], self.entry[heads], self.weight[heads])


@dataclass(frozen=True, eq=False)
class _Sizes:
    heads: int
    heads_large: int
    groups: int
    groups_large: int
    d: int
    d_large: int


def attention_rows(
    growth: Growth, term: Term, attention: Attention, layer: int | None
) -> dict[str, SelectedRows] | None:
    """Rows of ``E`` by space, and of ``F`` for the context; None where they cannot be told.

    That is: maps that are no selections, and heads that talk to one another.
    """
    family = growth.small.family
    if attention.weights is not None or (attention.scores is not None and family.readers(attention.scores)):
        return None
    names = attention.query, attention.key, attention.value, attention.context
    rows = [selected(term.map(name, "out", layer)) for name in names]
    reading = selected(term.map(attention.context, "in", layer))
    if reading is None or any(found is None for found in rows):
        return None
    sizes = _sizes(growth, attention)
    split = [_Heads.of(found, sizes.d, sizes.d_large) for found in (*rows, reading) if found is not None]
    query, key, value, context, reads = split
    share, source, good = _shares(context, reads, sizes)
    factor = float(np.sqrt(sizes.d / sizes.d_large)) if attention.scaled else 1.0
    group = np.arange(sizes.heads_large) // (sizes.heads_large // sizes.groups_large)
    turns = (_turns(growth, attention, block) for block in (query, key))
    query_turns, key_turns = turns
    asked = key.at(group)
    weight = share[:, None] * factor * asked.weight
    exact = (good[:, None] & key_turns[group]) | (share == 0)[:, None]
    found = {attention.query: _rows(source[:, None] * sizes.d + asked.entry, weight, sizes.heads * sizes.d, exact)}
    answers = share[:, None] * factor * query.weight
    turned = (good[:, None] & query_turns) | (share == 0)[:, None]
    found[attention.key] = _summed(source, query.entry, answers, turned, sizes)
    whole = np.repeat((good | (share == 0))[:, None], sizes.d_large, axis=1)
    found[attention.value] = _summed(source, reads.entry, reads.weight, whole, sizes)
    if attention.scores is not None:
        found[attention.scores] = _rows(source, share, sizes.heads, good | (share == 0))
    silent = ~(context.weight.any(axis=1) | value.at(group).weight.any(axis=1))
    written = np.repeat(reads.weight.any(axis=1) | silent, sizes.d_large)
    wrote = selected(term.map(attention.context, "out", layer))
    assert wrote is not None
    found[attention.context] = SelectedRows(wrote.index, wrote.weight, wrote.small, written)
    return found


def _sizes(growth: Growth, attention: Attention) -> _Sizes:
    spaces = growth.small.family.spaces
    heads, d = spaces[attention.query].axes
    groups = spaces[attention.key].axes[0]
    small, large = growth.small.sizes, growth.large.sizes
    return _Sizes(small[heads], large[heads], small[groups], large[groups], small[d], large[d])


def _shares(context: _Heads, reads: _Heads, sizes: _Sizes) -> tuple[Matrix, Any, Rows]:
    """The share ``α`` that every large head has of its small one, ``A_blockᵀ B_block = α I``, and which that is."""
    heads = np.arange(sizes.heads_large)
    strongest = np.abs(context.weight).argmax(axis=1)
    source = context.head[heads, strongest]
    live = reads.weight.any(axis=1)
    totals = np.zeros((sizes.heads_large, sizes.d))
    lines = np.repeat(heads, sizes.d_large)
    np.add.at(totals, (lines, reads.entry.ravel()), (reads.weight * context.weight).ravel())
    both = (reads.weight != 0) & (context.weight != 0)
    good = (~both | ((reads.head == context.head) & (reads.entry == context.entry))).all(axis=1)
    good &= ((reads.weight == 0) | (reads.head == source[:, None])).all(axis=1)
    good &= close(totals, totals[:, :1]).all(axis=1)
    return np.where(live, totals.mean(axis=1), 0.0), source, good | ~live


def _summed(source: Any, entry: Any, weight: Any, exact: Any, sizes: _Sizes) -> SelectedRows:
    """Rows of key or value heads: the sum over the query heads that share one, by small query head."""
    per, per_large = sizes.heads // sizes.groups, sizes.heads_large // sizes.groups_large
    shape = sizes.groups_large, per_large
    source = source.reshape(shape)
    entry, weight, exact = (part.reshape(*shape, sizes.d_large) for part in (entry, weight, exact))
    live = weight.any(axis=2)
    home = np.take_along_axis(source, live.argmax(axis=1)[:, None], axis=1) // per
    lead = np.abs(weight).argmax(axis=1)[:, None, :]
    chosen = np.take_along_axis(entry, lead, axis=1)
    one = (((entry == chosen) | (weight == 0)) & (~live | (source // per == home))[:, :, None]).all(axis=1)
    totals = np.zeros((sizes.groups_large, per, sizes.d_large))
    lines = np.repeat(np.arange(shape[0]), per_large)
    np.add.at(totals, (lines, (source % per).ravel()), weight.reshape(-1, sizes.d_large))
    even = close(totals, totals[:, :1]).all(axis=1)
    index = home * sizes.d + chosen[:, 0]
    return _rows(index, totals.mean(axis=1), sizes.groups * sizes.d, one & even & exact.all(axis=1))


def _turns(growth: Growth, attention: Attention, block: _Heads) -> Any:
    """Rows that commute with rotary positions, or are zero, ``(heads', d')``."""
    if attention.rotary == "none":
        return np.ones(block.weight.shape, dtype=np.bool_)
    turned, turned_large = growth.small.turning(attention), growth.large.turning(attention)
    half, half_large = turned // 2, turned_large // 2
    pair = np.arange(half_large)
    first, second = slice(0, half_large), slice(half_large, turned_large)
    entry, weight = block.entry, block.weight
    same = close(weight[:, first], weight[:, second]) & (entry[:, second] == entry[:, first] + half)
    same &= (entry[:, first] < half) & (pair * half == entry[:, first] * half_large)
    pairs = same | ((weight[:, first] == 0) & (weight[:, second] == 0))
    rest = (entry[:, turned_large:] >= turned) | (weight[:, turned_large:] == 0)
    return np.concatenate([pairs, pairs, rest], axis=1)


def _rows(index: Any, weight: Any, small: int, exact: Any) -> SelectedRows:
    return SelectedRows(index.ravel(), weight.ravel(), small, exact.ravel())
