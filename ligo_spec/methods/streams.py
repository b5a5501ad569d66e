"""What methods need to know of streams: the spaces that norms, scales and multipliers carry over to one another."""

from __future__ import annotations

from collections.abc import Mapping

from ligo_spec.operator import Growth
from ligo_spec.relations import Norm


def groups(growth: Growth) -> list[frozenset[str]]:
    """The streams, those that links carry over to one another together; queries and keys are no streams."""
    found: list[frozenset[str]] = []
    for link in growth.small.family.relations.links:
        if {link.reads, link.writes} & of_heads(growth):
            continue
        joined = frozenset({link.reads, link.writes})
        apart = [group for group in found if not group & joined]
        found = [*apart, joined.union(*(group for group in found if group & joined))]
    return found


def norms(growth: Growth) -> list[Norm]:
    """The norms of streams."""
    return [norm for norm in growth.small.family.relations.norms if not {norm.reads, norm.writes} & of_heads(growth)]


def of_heads(growth: Growth) -> set[str]:
    """Queries and keys, and what norms carry over to them."""
    relations = growth.small.family.relations
    heads = {space for attention in relations.attention for space in (attention.query, attention.key)}
    return heads | {norm.reads for norm in relations.norms if norm.writes in heads}


def gain_space(growth: Growth, norm: Norm) -> str:
    """The space whose gain map a norm's gain uses."""
    return growth.small.family.tensors[norm.gain].touches[0].space


def past_roots(growth: Growth, gains: Mapping[str, float]) -> dict[str, float]:
    """Factors of gains by space, those of what a root multiplies after a norm too: its maps settle that norm's."""
    after = {m.writes: gains[m.reads] for m in growth.small.family.relations.multipliers if m.reads in gains}
    return {**after, **gains}
