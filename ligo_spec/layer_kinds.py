"""Kinds of layers: local and global attention, rotary or not, with a norm or without (SPEC 3.2).

Only layers of one kind are mixed, since weights of different kinds compute different functions. What a config lists
per layer follows the layer that each large layer comes from; what a family fixes by the number of the layer does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.family import LAYER, LayerList
from ligo_spec.operator import Growth, Operator, Term
from ligo_spec.relations import holds

Kind = tuple[Any, ...]
Mask = npt.NDArray[np.bool_]


def lists_of(architecture: Architecture) -> dict[str, list[Any]]:
    """The per-layer lists of a config: as it states them, or as the library makes them up."""
    found = {}
    for key, rule in architecture.family.layer_lists.items():
        stated = architecture.config.get(key)
        if stated is not None:
            found[key] = list(stated)
        elif rule.period is not None or rule.after is not None:
            special = holds(rule.when, architecture.flags)
            chosen = _special(rule, architecture) if special else [False] * architecture.layers
            found[key] = [rule.value if each else rule.otherwise for each in chosen]
    return found


def _special(rule: LayerList, architecture: Architecture) -> list[bool]:
    layers = range(architecture.layers)
    if rule.after is not None:
        first = architecture.number(rule.after)
        return [i >= first for i in layers]
    period = int(architecture.number(rule.period)) if rule.period is not None else 0
    if period < 1:
        return [False for _ in layers]
    start = period - 1 if rule.start is None else rule.start
    return [i % period == start % period for i in layers]


def fixed_kinds(architecture: Architecture) -> list[Kind]:
    """What the number of a layer settles: which tensors it does not have."""
    partial = [tensor for tensor in architecture.family.tensors.values() if tensor.not_in]
    return [tuple(i in tensor.not_in for tensor in partial) for i in range(architecture.layers)]


def kinds(architecture: Architecture) -> list[Kind]:
    """The kind of every layer."""
    lists = list(lists_of(architecture).values())
    return [fixed + tuple(entry[i] for entry in lists) for i, fixed in enumerate(fixed_kinds(architecture))]


def sources(term: Term, growth: Growth) -> list[int]:
    """The small layer that counts most in every large one, over all its tensors; 0 where none counts."""
    rows = [np.abs(term.mix(template)) for template in growth.small.family.tensors if LAYER in template]
    total: npt.NDArray[np.floating] = np.sum(rows, axis=0)
    return [int(row.argmax()) for row in total]


def same_kind(growth: Growth, main: Sequence[int]) -> Mask:
    """Which small layers may take part in which large ones, ``(layers_large, layers_small)``: those of one kind."""
    small = kinds(growth.small)
    return np.array([[small[j] == small[source] for j in range(len(small))] for source in main])


def misfits(term: Term, growth: Growth) -> Iterator[str]:
    """What in a term's depth maps mixes layers of different kinds, or puts one where its kind cannot be."""
    main = sources(term, growth)
    allowed = same_kind(growth, main)
    small, fixed = fixed_kinds(growth.small), fixed_kinds(growth.large)
    for i, source in enumerate(main):
        if small[source] != fixed[i]:
            yield f"layer {i} of the large model would come from layer {source}, which {_difference(growth, source, i)}"
    for key, mix in term.depth.items():
        for i, j in np.argwhere((mix != 0) & ~allowed)[:3]:
            yield f"depth map {key} mixes layer {j} into layer {i}, which comes from layer {main[i]} of another kind"


def _difference(growth: Growth, source: int, i: int) -> str:
    for name, tensor in growth.small.family.tensors.items():
        if (source in tensor.not_in) != (i in tensor.not_in):
            return f"has {'no' if source in tensor.not_in else 'a'} {name}"
    return "is of another kind"


def grown_lists(growth: Growth, operator: Operator) -> dict[str, list[Any]]:
    """The per-layer lists of the large config: every layer has the entries of the one that it comes from."""
    lists = lists_of(growth.small)
    if not lists or not operator.terms:
        return {}
    main = sources(operator.terms[0], growth)
    return {key: [entries[source] for source in main] for key, entries in lists.items()}
