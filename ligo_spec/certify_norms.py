"""What condition 3 of the certificate looks at: a norm over a whole space, or over each head in use (SPEC.md 5.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ligo_spec.maps import Dense, Map
from ligo_spec.measures import Rows, largest
from ligo_spec.operator import Growth, Term
from ligo_spec.relations import Norm


@dataclass(frozen=True, eq=False)
class NormPart:
    """One piece that is normed by itself.

    Args:
        reads: The map of what goes in, ``(d', d)``.
        gain: The map of its gains.
        writes: The map of what comes out.
        live: Rows of it that are read.
        stray: Largest entry that takes from elsewhere than the piece of the small model behind this one.
        wrong: What to say where the piece is none of the small model's at one scale.
    """

    reads: Map
    gain: Map
    writes: Map
    live: Rows
    stray: float
    wrong: str


def whole(term: Term, norm: Norm, space: str, layer: int | None, live: Rows) -> NormPart:
    """A norm over all of a space."""
    reads, writes = term.map(norm.reads, "out", layer), term.map(norm.writes, "out", layer)
    what = "variance" if norm.kind == "layer_norm" else "mean square"
    wrong = f"the {what} of {norm.reads} does not map to one factor of itself"
    return NormPart(reads, term.map(space, "gain", layer), writes, live, 0.0, wrong)


def heads(growth: Growth, term: Term, norm: Norm, space: str, layer: int | None, live: Rows) -> Iterator[NormPart]:
    """A norm over single heads: every head in use, held against the small head that it comes from."""
    count, side = (growth.large.sizes[axis] for axis in growth.small.family.spaces[norm.reads].axes)
    reads, writes = (term.map(name, "out", layer) for name in (norm.reads, norm.writes))
    gain = term.map(space, "gain", layer)
    for head in range(count):
        rows = slice(head * side, (head + 1) * side)
        if not live[rows].any():
            continue
        before, after = (m.rows(rows.start, rows.stop).reshape(side, -1, gain.shape[1]) for m in (reads, writes))
        source = int(np.abs(after).max(axis=(0, 2)).argmax())
        stray = max(largest(np.delete(block, source, axis=1)) for block in (before, after))
        wrong = f"head {head} of {norm.reads} is no old head at one scale"
        yield NormPart(Dense(before[:, source]), gain, Dense(after[:, source]), live[rows], stray, wrong)
