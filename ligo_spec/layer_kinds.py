"""Kinds of layers: local and global attention, rotary or not, with a norm or without (SPEC 3.2).

Only layers of one kind are mixed, since weights of different kinds compute different functions. What a config lists
per layer follows the layer that each large layer comes from; what a family fixes by the number of the layer does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.family import Family
from ligo_spec.layer_lists import lists_of, stated
from ligo_spec.operator import Growth, Operator, Term

Kind = tuple[Any, ...]
Mask = npt.NDArray[np.bool_]


def fixed_kinds(architecture: Architecture, stack: str) -> list[Kind]:
    """What the number of a layer settles: which tensors it does not have."""
    partial = _partial(architecture, stack).values()
    return [tuple(i in layers for layers in partial) for i in range(architecture.depth(stack))]


def _partial(architecture: Architecture, stack: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a stack that some layers lack by their number, and which."""
    family, declared = architecture.family, architecture.declared.tensors
    lacking = {name: declared[name].not_in for name in family.tensors if family.stack_of(name) == stack}
    return {name: layers for name, layers in lacking.items() if layers}


def kinds(architecture: Architecture, stack: str) -> list[Kind]:
    """The kind of every layer of a stack."""
    lists = [entries for key, entries in lists_of(architecture).items() if _is_of(architecture, key, stack)]
    return [fixed + tuple(entry[i] for entry in lists) for i, fixed in enumerate(fixed_kinds(architecture, stack))]


def _is_of(architecture: Architecture, key: str, stack: str) -> bool:
    return architecture.family.stack_of_list(key) == stack


def sources(term: Term, family: Family, stack: str) -> list[int]:
    """The small layer that counts most in every large one of a stack, over all its tensors; 0 where none counts."""
    templates = [name for name in family.tensors if family.stack_of(name) == stack and term.has_depth(name)]
    rows = [np.abs(term.mix(template)) for template in templates]
    total: npt.NDArray[np.floating] = np.sum(rows, axis=0)
    return [int(row.argmax()) for row in total]


def grown_layers(family: Family, operator: Operator, template: str) -> list[int | None]:
    """The layers of the large model that have a tensor: those whose source has it; None for one outside the layers.

    Args:
        family: That of the small model.
        operator: What says where layers come from.
        template: The tensor.
    """
    stack = family.stack_of(template)
    if stack is None:
        return [None]
    main = sources(operator.main, family, stack)
    return [i for i, source in enumerate(main) if family.in_layer(template, source)]


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
            yield from _misfits_of(stack, term, growth, sources(main or term, family, stack))


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
    for name, layers in _partial(growth.small, stack).items():
        if (source in layers) != (i in layers):
            return f"has {'no' if source in layers else 'a'} {name}"
    return "is of another kind"


def settled(growth: Growth, operator: Operator) -> Growth:
    """The growth whose large model knows its layers: every one is of the kind of the layer that it comes from.

    The lists of its config have the entries of those layers, and its layers have the tensors of those.
    """
    lists = lists_of(growth.small)
    if not lists or not operator.terms:
        return growth
    family, large = growth.small.family, growth.large
    main = {stack: sources(operator.main, family, stack) for stack in family.stacks}
    grown = {key: [entries[i] for i in main[family.stack_of_list(key)]] for key, entries in lists.items()}
    config = MappingProxyType({**large.config, **stated(large, grown)})
    return replace(growth, large=replace(large, config=config).settled(grown))
