"""LEMON: whole copies, padding that norms do not see, uneven shares (Wang et al., arXiv 2310.07999, section 4, app. C).

A stream of ``D`` channels becomes ``n = ⌊D'/D⌋`` copies and ``r = D' - n D`` more (methods 3.11):

- under LayerNorm the rest is the mean of all channels ("average expansion"): mean and centred copies stay;
- under RMSNorm it is zero ("zero expansion");
- what the norm writes has zeros there, its gains are ``√(n D / D')`` times the old ones, its epsilon ``n D / D'``.

Units and heads are copied in turn ("circular expansion"). Readers share copies unevenly, so that these part.

``epsilon: kept`` is ours: streams ``√(D' / (n D))`` times as large have the old mean square, so no epsilon changes. It
is exact too where norms of another size share the key of the config, or no key holds the epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from ligo_spec.documents import Document
from ligo_spec.draws import Draws
from ligo_spec.maps import Dense, Kron, Map, Select, as_select, scaled, stack
from ligo_spec.methods import streams
from ligo_spec.methods.shares import Share, evenly, unevenly, weighted
from ligo_spec.methods.width import Trio, Width, copies, in_turn, linked, named, swapped, trio
from ligo_spec.operator import Growth

Rest = Literal["mean", "zero", "copies"]
"""What the channels after the last whole copy are."""


class Lemon(Document):
    """Options of ``lemon``."""

    method: Literal["lemon"] = "lemon"
    split: Literal["uneven", "even"] = "uneven"
    """How copies are read: at weights 1 : 2 : ... : c, so that they part in training, or alike."""
    epsilon: Literal["scaled", "kept"] = "scaled"
    """What keeps norms exact where streams grow by no integer: the epsilon in the config, or larger streams."""


def width(growth: Growth, options: Lemon, draws: Draws) -> Width:
    """The maps of LEMON.

    Raises:
        PlanError: ``head_dim`` grows under rotary positions, or heads do not fit their groups.
    """
    share = unevenly if options.split == "uneven" else evenly
    trios = copies(growth, options.method, in_turn, share)
    rests = dict(_rests(growth))
    spread = {norm.reads: _spread(growth, norm.reads, rests[norm.reads]) for norm in streams.norms(growth)}
    lift = {space: spread[space] ** -0.5 if options.epsilon == "kept" else 1.0 for space in spread}
    normed = {
        streams.gain_space(growth, norm): float(np.sqrt(spread[norm.reads]) * lift.get(norm.writes, 1.0))
        for norm in streams.norms(growth)
    }
    gains = {**dict.fromkeys(rests, 1.0), **streams.past_roots(growth, normed)}
    for space, rest in rests.items():
        writes, reads = _stream(growth, space, rest, share, draws)
        trios[space] = _lifted(trio(writes, reads, _gain(growth, space, gains[space])), lift.get(space, 1.0))
    for space in gains.keys() - rests.keys():  # gains that are no stream's own
        trios[space] = trio(trios[space].out[0], trios[space].in_[0], _gain(growth, space, gains[space]))

    def tie(space: str, own: Trio, pair: Trio) -> Trio:
        both = swapped(space, own, pair)
        return both if space not in rests else _tied(growth, space, both, gains[space], rests[space])

    linked(growth, trios, tie)
    return named(trios, _eps(growth, spread) if options.epsilon == "scaled" else {})


def _rests(growth: Growth) -> Iterator[tuple[str, Rest]]:
    """What every stream is filled up with.

    A mean stands no function on single channels: where such a stream passes through an activation, or a norm or scale
    writes what a LayerNorm reads (norms after the branches), nothing exact is known, and the rest are copies.
    """
    relations = growth.small.family.relations
    activated = {activation.space for activation in relations.activations}
    written = {link.writes for link in (*relations.norms, *relations.scales)}
    for group in streams.groups(growth):
        centred = {n.reads for n in relations.norms if n.kind == "layer_norm"} & group
        blocked = bool(centred) and bool(group & activated or centred & written)
        for space in sorted(group):
            means = bool(centred) and space not in written
            yield space, "copies" if blocked else "mean" if means else "zero"


def _whole(growth: Growth, space: str, rest: Rest) -> tuple[int, int, int]:
    """``D``, ``D'``, and how many of the large channels are copies."""
    small, large = growth.small.width(space), growth.large.width(space)
    assert small is not None
    assert large is not None
    return small, large, large if rest == "copies" else large // small * small


def _spread(growth: Growth, space: str, rest: Rest) -> float:
    """``κ² = n D / D'``, what the stream's variance or mean square is multiplied by."""
    _, large, whole = _whole(growth, space, rest)
    return whole / large


def _stream(growth: Growth, space: str, rest: Rest, share: Share, draws: Draws) -> tuple[Map, Map]:
    """``B``: copies and the rest; ``A``: shares of the copies, and random old rows where the rest carries zeros."""
    small, large, whole = _whole(growth, space, rest)
    copied = Select(np.arange(whole) % small, small)
    reads = share(space, copied)
    if whole == large:
        return copied, reads
    more = large - whole
    if rest == "mean":
        mean = Kron(Select(np.zeros(more, dtype=np.int64), 1), Dense(np.full((1, small), 1 / small)))
        return stack([copied, mean]), _padded(reads, np.zeros(more))
    return _padded(copied, np.zeros(more)), _padded(reads, draws.of(f"lemon.{space}").standard_normal(more))


def _lifted(three: Trio, factor: float) -> Trio:
    """A stream that is larger by a factor: written so, and read so much smaller."""
    if factor == 1:
        return three
    return trio(scaled(three.out[0], factor), scaled(three.in_[0], 1 / factor), three.gain[0])


def _padded(select: Select, weights: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Select:
    """More rows below a selection: old rows in turn, at these weights."""
    index = np.concatenate([select.index, np.arange(weights.size) % select.small])
    return Select(index, select.small, np.concatenate([select.weights, weights]))


def _gain(growth: Growth, space: str, factor: float) -> Select:
    """Old gains times a factor; those of the rest too, as zeros could not learn."""
    small, large, _ = _whole(growth, space, "copies")
    return weighted(Select(np.arange(large) % small, small), np.full(large, factor))


def _tied(growth: Growth, space: str, both: Trio, factor: float, rest: Rest) -> Trio:
    """A space that is read by the values of a tensor that writes another: its shares go into norm and gains."""
    _, large, whole = _whole(growth, space, rest)
    shares = as_select(both.out[0])
    assert shares is not None
    is_copy = np.arange(large) < whole
    writes = Select(shares.index, shares.small, np.where(is_copy, shares.weights, 0.0))
    gain = Select(shares.index, shares.small, factor * np.where(is_copy, shares.weights, 1.0))
    return Trio((writes,), both.in_, (gain,))


def _eps(growth: Growth, spread: Mapping[str, float]) -> dict[str, float]:
    """The factors of the epsilons of the norms that read a residual stream."""
    residuals = growth.small.family.residuals
    found = {n.eps: spread[n.reads] for n in streams.norms(growth) if n.eps is not None and n.reads in residuals}
    return {key: factor for key, factor in found.items() if factor != 1}
