"""Copies that keep their length: ``B = A = S diag(1/√c)`` on every stream (Samragh et al., arXiv 2409.12903, and ours).

A stream of ``d`` channels, copied ``c`` times each, keeps its norm, so that RMSNorm is exact at any ratio with gains
``√(d/d')`` and epsilon ``d/d'`` times the old ones (methods 4.2); an embedding and a head that are tied stay so without
a division in the last norm, since ``B`` is its own reader (methods 4.3). HyperCloning does this to Gemma's embeddings
(``1/√k`` in its code); the general case, of unequal counts, follows from ``Bᵀ B = I``. Units and heads are copied in
turn, as in ``net2net``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Select, as_select
from ligo_spec.methods import streams
from ligo_spec.methods.shares import Share, counts, noisily, weighted
from ligo_spec.methods.width import Trio, Width, copies, in_turn, linked, named, swapped, trio
from ligo_spec.operator import Growth


class NormalizedCopy(Document):
    """Options of ``normalized_copy``."""

    method: Literal["normalized_copy"] = "normalized_copy"
    noise: Annotated[float | None, Field(ge=0, le=300, examples=[10])] = None
    """Signal-to-noise ratio, in dB, of how copies are read: they part in training; null for none."""


def width(growth: Growth, options: NormalizedCopy, draws: Draws) -> Width:
    """The maps of normalized copies.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    share = noisily(options.method, options.noise, draws)
    trios = copies(growth, options.method, in_turn, share)
    activated = {activation.space for activation in growth.small.family.relations.activations}
    spaces = {space for group in streams.groups(growth) if not group & activated for space in group}
    normed = {
        streams.gain_space(growth, norm): float(np.sqrt(growth.ratio(norm.reads)))
        for norm in streams.norms(growth)
        if norm.reads in spaces
    }
    factors = streams.past_roots(growth, normed)
    for space in sorted(spaces | factors.keys()):
        trios[space] = _stream(growth, space, factors.get(space, 1.0), None if options.noise is None else share)

    def tie(space: str, own: Trio, pair: Trio) -> Trio:
        both = swapped(space, own, pair)
        return _tied(both, factors[space]) if space in factors else both

    linked(growth, trios, tie)
    residuals = growth.small.family.residuals
    eps = {n.eps: growth.ratio(n.reads) for n in streams.norms(growth) if n.eps is not None and n.reads in residuals}
    return named(trios, {key: ratio for key, ratio in eps.items() if ratio != 1})


def _stream(growth: Growth, space: str, factor: float, share: Share | None) -> Trio:
    """``B`` at ``1/√c``, ``A`` the same map, or that with noise; gains are copies at a factor."""
    small, large = growth.small.width(space), growth.large.width(space)
    assert small is not None
    assert large is not None
    copied = Select(in_turn(space, small, large), small)
    root = np.sqrt(counts(copied))[copied.index]
    writes = weighted(copied, 1 / root)
    reads = writes if share is None else weighted(copied, share(space, copied).weights * root)
    return trio(writes, reads, weighted(copied, np.full(large, factor)))


def _tied(both: Trio, factor: float) -> Trio:
    """A space that is read by the values of a tensor that writes another: ``B`` is that one's ``A``, gains follow."""
    writes = as_select(both.out[0])
    assert writes is not None
    root = np.sqrt(counts(writes))[writes.index]
    return Trio(both.out, both.in_, (weighted(writes, factor * root * writes.weights),))
