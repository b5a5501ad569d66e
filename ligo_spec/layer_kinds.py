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
from ligo_spec.family import LayerList
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
            layers = architecture.depth(architecture.family.stack_of_list(key))
            special = holds(rule.when, architecture.flags)
            chosen = _special(rule, architecture, range(layers)) if special else [False] * layers
            found[key] = [rule.value if each else rule.otherwise for each in chosen]
    return found


def _special(rule: LayerList, architecture: Architecture, layers: range) -> list[bool]:
    if rule.after is not None:
        first = architecture.number(rule.after)
        return [i >= first for i in layers]
    period = int(architecture.number(rule.period)) if rule.period is not None else 0
    if period < 1:
        return [False for _ in layers]
    start = period - 1 if rule.start is None else rule.start
    return [i % period == start % period for i in layers]


def fixed_kinds(architecture: Architecture, stack: str) -> list[Kind]:
    """What the number of a layer settles: which tensors it does not have."""
    family = architecture.family
    partial = [tensor for name, tensor in family.tensors.items() if tensor.not_in and family.stack_of(name) == stack]
    return [tuple(i in tensor.not_in for tensor in partial) for i in range(architecture.depth(stack))]


def kinds(architecture: Architecture, stack: str) -> list[Kind]:
    """The kind of every layer of a stack."""
    lists = [entries for key, entries in lists_of(architecture).items() if _is_of(architecture, key, stack)]
    return [fixed + tuple(entry[i] for entry in lists) for i, fixed in enumerate(fixed_kinds(architecture, stack))]


def _is_of(architecture: Architecture, key: str, stack: str) -> bool:
    return architecture.family.stack_of_list(key) == stack


def sources(term: Term, growth: Growth, stack: str) -> list[int]:
    """The small layer that counts most in every large one of a stack, over all its tensors; 0 where none counts."""
    family = growth.small.family
    templates = [name for name in family.tensors if family.stack_of(name) == stack and term.has_depth(name)]
    rows = [np.abs(term.mix(template)) for template in templates]
    total: npt.NDArray[np.floating] = np.sum(rows, axis=0)
    return [int(row.argmax()) for row in total]


def same_kind(growth: Growth, stack: str, main: Sequence[int]) -> Mask:
    """Which small layers may take part in which large ones, ``(layers_large, layers_small)``: those of one kind.

    Args:
        growth: Small and large architecture.
        stack: Whose layers.
        main: The small layer that each large one comes from.
    """
    small = kinds(growth.small, stack)
    return np.array([[small[j] == small[source] for j in range(len(small))] for source in main])


def misfits(term: Term, growth: Growth, main: Term | None = None) -> Iterator[str]:
    """What in a term's depth maps mixes layers of different kinds, or puts one where its kind cannot be.

    Args:
        term: Whose depth maps.
        growth: Small and large architecture.
        main: The operator's first term, which says where layers come from; ``term`` itself where it is left out.
    """
    family = growth.small.family
    for stack in family.stacks:
        if any(family.stack_of(name) == stack and term.has_depth(name) for name in family.tensors):
            yield from _misfits_of(stack, term, growth, sources(main or term, growth, stack))


def _misfits_of(stack: str, term: Term, growth: Growth, main: Sequence[int]) -> Iterator[str]:
    allowed = same_kind(growth, stack, main)
    small, fixed = fixed_kinds(growth.small, stack), fixed_kinds(growth.large, stack)
    for i, source in enumerate(main):
        if small[source] != fixed[i]:
            difference = _difference(growth, stack, source, i)
            yield f"layer {i} of the large model's {stack} would come from layer {source}, which {difference}"
    for key, mix in term.depth.items():
        if growth.small.family.stack_of_key(key) != stack:
            continue
        for i, j in np.argwhere((mix != 0) & ~allowed)[:3]:
            yield f"depth map {key} mixes layer {j} into layer {i}, which comes from layer {main[i]} of another kind"


def _difference(growth: Growth, stack: str, source: int, i: int) -> str:
    for name, tensor in growth.small.family.tensors.items():
        if growth.small.family.stack_of(name) == stack and (source in tensor.not_in) != (i in tensor.not_in):
            return f"has {'no' if source in tensor.not_in else 'a'} {name}"
    return "is of another kind"


def grown_lists(growth: Growth, operator: Operator) -> dict[str, list[Any]]:
    """The per-layer lists of the large config: every layer has the entries of the one that it comes from."""
    lists = lists_of(growth.small)
    if not lists or not operator.terms:
        return {}
    main = {stack: sources(operator.main, growth, stack) for stack in growth.small.family.stacks}
    stack_of = growth.small.family.stack_of_list
    return {key: [entries[source] for source in main[stack_of(key)]] for key, entries in lists.items()}
