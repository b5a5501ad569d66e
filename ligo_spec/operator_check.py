"""Does an operator fit the family and the sizes? Whoever made it, it is checked before it is used (SPEC 3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ligo_spec import layer_kinds
from ligo_spec.errors import InputError, Problem
from ligo_spec.maps import Identity
from ligo_spec.operator import Growth, Operator, Term, every


def check_operator(operator: Operator, growth: Growth) -> None:
    """Refuse an operator that does not fit the family or the sizes.

    Raises:
        InputError: All problems at once.
    """
    problems = [Problem("operator", text) for text in _misfits(operator, growth)]
    if problems:
        raise InputError(problems)


def _misfits(operator: Operator, growth: Growth) -> Iterator[str]:
    family = growth.small.family
    if operator.family != family.name:
        yield f"made for family {operator.family!r}, not {family.name!r}"
        return
    for which, made, wanted in (
        ("small", operator.small, growth.small.sizes),
        ("large", operator.large, growth.large.sizes),
    ):
        different = [name for name in wanted if made.get(name) != wanted[name]]
        yield from (f"{which} {name} is {made.get(name)}, the plan's is {wanted[name]}" for name in different)
    if not operator.terms:
        yield "has no terms"
    for number, term in enumerate(operator.terms):
        needed = [name for name in family.tensors if number == 0 or term.serves(name)]
        for text in [*_misfit_spaces(term, growth, needed), *_misfit_depth(term, operator.main, growth, needed)]:
            yield text if len(operator.terms) == 1 else f"term {number}: {text}"
        for name in sorted((term.tensors or frozenset()) - family.tensors.keys()):
            yield f"term {number}: is for {name}, which is no tensor of the family"
    yield from (f"no term is for tensor {name}" for name in family.tensors if not operator.terms_of(name))
    norms = {norm.eps for norm in family.relations.norms if norm.eps is not None}
    for key, factor in operator.eps_scale.items():
        if key not in norms or not np.isfinite(factor) or factor <= 0:
            yield f"eps_scale.{key} = {factor}: must be a positive factor of one of {', '.join(sorted(norms))}"


def _misfit_spaces(term: Term, growth: Growth, needed: Sequence[str]) -> Iterator[str]:
    """Maps that are missing or of another shape: the first term needs all spaces, others those of their tensors."""
    family = growth.small.family
    touched = {dim.space for name in needed for dim in family.tensors[name].touches}
    for name in term.spaces.keys() - family.spaces.keys():
        yield f"space {name} is not one of the family's"
    for name, space in family.spaces.items():
        if name not in term.spaces:
            if name in touched or len(needed) == len(family.tensors):
                yield f"space {name} has no maps"
            continue
        wanted = growth.large.width(name), growth.small.width(name)
        for role in ("out", "in", "gain"):
            key = term.spaces[name].of(role)
            if key not in term.maps:
                yield f"space {name} names a map {key!r} that is not there"
                continue
            choices = term.maps[key]
            allowed = (1,) if space.per == "model" else (1, growth.large.depth(space.per))
            if len(choices) not in allowed:
                yield f"map {key} of space {name} comes {len(choices)} times; allowed: {allowed}"
            for map_ in choices:
                if wanted != (None, None) and map_.shape != wanted:
                    yield f"map {key} has shape {map_.shape}; space {name} needs (large, small) = {wanted}"
                elif wanted == (None, None) and not isinstance(map_, Identity):
                    yield f"map {key}: space {name} has no declared size, only the identity maps it"


def _misfit_depth(term: Term, main: Term, growth: Growth, needed: Sequence[str]) -> Iterator[str]:
    family = growth.small.family
    keys = {every(stack) for stack in family.stacks}
    wanted = {stack: (growth.large.depth(stack), growth.small.depth(stack)) for stack in family.stacks}
    wrong = False
    for key, mix in term.depth.items():
        stack = family.stack_of_key(key)
        if key not in keys and (key not in family.tensors or stack is None):
            wrong = True
            yield f"depth map {key} is for no layer tensor of the family"
        elif mix.shape != wanted[str(stack)]:
            wrong = True
            yield (
                f"depth map {key} has shape {mix.shape}; (layers_large, layers_small) = {wanted[str(stack)]} is needed"
            )
        elif not np.isfinite(mix).all():
            yield f"depth map {key} is not finite"
    for name in needed:
        stack = family.stack_of(name)
        if stack is not None and name not in term.depth and every(stack) not in term.depth:
            wrong = True
            yield f"tensor {name} has no depth map"
    if not wrong:
        yield from layer_kinds.misfits(term, growth, main)
