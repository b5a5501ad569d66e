"""LiGO's start in width: ``B = A = [I; C]``, one tied map a space (Wang et al., arXiv 2303.00980, section 3.3).

``C`` has rows drawn from U(0, 1) and normalised to sum 1, so that a new channel is a noisy mean of all old ones, as
the official code's ``--fuse_init_scheme ... rand`` has it (VITA-Group/LiGO, ligo.py). SPEC.md 4.6 says what is shared
and where we keep what the code breaks: ties stay ties, and heads stay whole where positions are rotary or heads are
grouped.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Dense, Identity, Kron, Map, dense, stack
from ligo_spec.methods.width import (
    Choices,
    Trio,
    Width,
    fixed_spaces,
    head_sizes,
    named,
    place_heads,
    raw_spaces,
    refuse_rotary_growth,
    root_factor,
    tied_spaces,
)
from ligo_spec.operator import Growth
from ligo_spec.relations import Attention


class NoisyAverage(Document):
    """Options of ``noisy_average``."""

    method: Literal["noisy_average"] = "noisy_average"


def width(growth: Growth, options: NoisyAverage, draws: Draws) -> Width:
    """The maps of LiGO's start.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    refuse_rotary_growth(growth, options.method)
    family = growth.small.family
    trios = fixed_spaces(growth, options.method)
    for attention in family.relations.attention:
        trios |= _attention(growth, attention, draws)
    trios |= {name: trios[normed] for name, normed in raw_spaces(growth).items()}
    for name, other in _shared(growth).items():
        if name not in trios:
            if other not in trios:
                trios[other] = _tied(_space(growth, other, draws))
            trios[name] = trios[other]
    for multiplier in family.relations.multipliers:
        factor = root_factor(growth, multiplier)
        trios[multiplier.reads] = trios[multiplier.writes]
        if factor != 1:  # the same arrays at a factor of their own
            scalar = Dense(np.array([[factor]]))
            trios[multiplier.reads] = _tied(tuple(Kron(scalar, map_) for map_ in trios[multiplier.writes].out))
    for name, other in tied_spaces(growth).items():
        trios[name] = trios[other]
    return named({name: trios[name] for name in family.spaces})


def average(name: str, small: int, large: int, draws: Draws) -> Map:
    """``[I; C]``, rows of ``C`` drawn and normalised to sum 1, ``(large, small)``."""
    if small == large:
        return Identity(small)
    new = draws.of(f"noisy_average.{name}").random((large - small, small))
    mean = (new / new.sum(axis=1, keepdims=True)).astype(np.float32)  # what is learned in float32 starts there
    return stack([Identity(small), Dense(mean)])


def _shared(growth: Growth) -> dict[str, str]:
    """Whose map each space uses: that of all spaces that norms and factors link to it, named by the first of them.

    The residual streams come first, so that whatever is linked to it uses its map.
    """
    family = growth.small.family
    order = [*family.residuals, *(name for name in family.spaces if name not in family.residuals)]
    root = {name: name for name in order}
    for link in family.relations.links:
        first, second = sorted((root[link.reads], root[link.writes]), key=order.index)
        root = {name: first if other == second else other for name, other in root.items()}
    return root


def _space(growth: Growth, name: str, draws: Draws) -> Choices:
    small, large = growth.small.width(name), growth.large.width(name)
    assert small is not None
    assert large is not None
    return tuple(average(label, small, large, draws) for label in _labels(growth, name))


def _labels(growth: Growth, name: str) -> list[str]:
    stack = growth.small.family.spaces[name].per
    return [name] if stack == "model" else [f"{name}.{layer}" for layer in range(growth.large.depth(stack))]


def _tied(choices: Choices) -> Trio:
    return Trio(choices, choices, choices)


def _attention(growth: Growth, attention: Attention, draws: Draws) -> dict[str, Trio]:
    """Dense maps as in the paper; whole-head maps ⊗ identity where heads are grouped or positions rotary."""
    small, large = head_sizes(growth, attention)
    if attention.rotary == "none" and small.per_group == large.per_group == 1:
        query, key, value = (
            _tied(_space(growth, name, draws)) for name in (attention.query, attention.key, attention.value)
        )
        return {attention.query: query, attention.key: key, attention.value: value, attention.context: value}
    inner = average("head_dim", small.head_dim, large.head_dim, draws)
    groups_of = [average(label, small.groups, large.groups, draws) for label in _labels(growth, attention.key)]
    values_of = [average(label, small.groups, large.groups, draws) for label in _labels(growth, attention.value)]
    heads_of = [_heads(growth, attention, label, draws) for label in _labels(growth, attention.query)]
    heads = _tied(tuple(Kron(map_, inner) for map_ in heads_of))
    per_head = _tied(tuple(heads_of))
    return {
        **{space: per_head for space in (attention.scores, attention.weights) if space is not None},
        attention.query: heads,
        attention.key: _tied(tuple(Kron(map_, inner) for map_ in groups_of)),
        attention.value: _tied(tuple(Kron(map_, inner) for map_ in values_of)),
        attention.context: heads,
    }


def _heads(growth: Growth, attention: Attention, label: str, draws: Draws) -> Map:
    """``[I; C]`` over query heads, its rows moved to where each old head keeps its key-value head."""
    small, large = head_sizes(growth, attention)
    map_ = average(label, small.heads, large.heads, draws)
    source, turn = place_heads(small, large, np.arange(large.groups) % small.groups)
    old = np.flatnonzero(turn == 0)
    if np.array_equal(old, np.arange(small.heads)) and np.array_equal(source[old], old):
        return map_
    moved = np.empty((large.heads, small.heads))
    moved[old] = np.eye(small.heads)[source[old]]
    moved[turn > 0] = dense(map_)[small.heads :]
    return Dense(moved)
