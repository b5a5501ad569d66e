"""Condition 7 of the certificate: a softmax over experts of which a few are chosen (SPEC.md 5.8)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ligo_spec.maps import Map, row_blocks
from ligo_spec.measures import distance_to_selection
from ligo_spec.operator import Growth, Term
from ligo_spec.relations import Routing


def wrong_routing(growth: Growth, term: Term, routing: Routing, layer: int | None) -> Iterator[tuple[str, float]]:
    """Problems of the experts of a layer, with the size of each (0 where there is none); the first that counts is it.

    Of ``c`` copies of every expert each has ``1/c`` of its probability, and the ``c k`` that have most are the copies
    of the ``k`` that had most. Where the weights of those chosen are divided by their sum, an expert that is chosen
    alone has weight 1, and so have any of its copies together.
    """
    out = term.map(routing.space, "out", layer)
    error = distance_to_selection(out, np.ones(out.shape[0], dtype=np.bool_), zero_allowed=False)
    yield "its experts are no plain copies, so the softmax over them is another one", error
    copies = _copies(out)
    few, many = int(copies.min()), int(copies.max())
    small, large = (model.sizes[routing.chosen] for model in (growth.small, growth.large))
    if routing.normalized and small == 1 and large <= few:
        return
    text = f"some experts are copied {few} times, others {many} times, so that their shares change"
    yield text, float(many - few)
    wanted = few * small
    times = "every expert is there once" if few == 1 else f"every expert is copied {few} times"
    yield f"{times}, so {routing.chosen} must be {wanted}, it is {large}", float(abs(large - wanted))


def _copies(map_: Map) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each small entry is selected, by a map that is a plain selection, ``(small,)``."""
    sources = np.concatenate([block.argmax(axis=1) for _, block in row_blocks(map_)])
    return np.bincount(sources, minlength=map_.shape[1])
