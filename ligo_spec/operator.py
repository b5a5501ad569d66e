"""The operator document (``ligo/operator/1``): the maps of every space and the mixing of the layers.

``W'_i = Σ_t Σ_j D_t[i, j] · B_t,out W_j A_t,inᵀ`` (SPEC.md section 3). Maps have names, and spaces name the map
that they use in each role; two spaces (or two roles) that name one map are tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError, Problem
from ligo_spec.family import LAYER, Role
from ligo_spec.maps import Identity, Map

ALL = "*"
"""The key of a depth map that serves every layer tensor without one of its own."""

Mix = npt.NDArray[np.floating]


@dataclass(frozen=True)
class SpaceMaps:
    """Names of the maps of one space: ``out`` (B), ``in_`` (A) and ``gain`` (G)."""

    out: str
    in_: str
    gain: str

    def of(self, role: Role) -> str:
        """The name of the map that a dimension of that role uses."""
        return {"out": self.out, "in": self.in_, "gain": self.gain}[role]


@dataclass(frozen=True, eq=False)
class Term:
    """One term of an operator.

    Args:
        maps: By name; one map for all layers, or one per layer of the large model.
        spaces: For every space of the family, the names of its maps.
        depth: ``(layers_large, layers_small)`` by canonical template, ``*`` for all that have none of their own.
    """

    maps: Mapping[str, tuple[Map, ...]]
    spaces: Mapping[str, SpaceMaps]
    depth: Mapping[str, Mix]

    def map(self, space: str, role: Role, layer: int | None) -> Map:
        """The map of a space in a role, at a layer of the large model (None outside the layers)."""
        choices = self.maps[self.spaces[space].of(role)]
        return choices[0] if len(choices) == 1 or layer is None else choices[layer]

    def mix(self, template: str) -> Mix:
        """The depth map of a layer tensor, ``(layers_large, layers_small)``."""
        return self.depth.get(template, self.depth[ALL]) if ALL in self.depth else self.depth[template]


@dataclass(frozen=True, eq=False)
class Operator:
    """A growth operator: a sum of terms, and the factors of the norms' epsilons.

    Args:
        family: Name of the family.
        small: Sizes of the small model.
        large: Sizes of the large model.
        terms: At least one.
        eps_scale: Factor by config key, for norms whose epsilon must scale with their space (SPEC.md 5.3).
    """

    family: str
    small: Mapping[str, int]
    large: Mapping[str, int]
    terms: tuple[Term, ...]
    eps_scale: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """What is to grow: a small and a large architecture of one family."""

    small: Architecture
    large: Architecture

    def __post_init__(self) -> None:
        if self.small.family is not self.large.family and self.small.family != self.large.family:
            raise InputError("growth needs two sizes of one family")

    @property
    def ratio(self) -> float:
        """Small over large size of the residual stream, ``d / d'``."""
        residual = self.small.family.residual
        small, large = self.small.width(residual), self.large.width(residual)
        assert small is not None
        assert large is not None
        return small / large


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
        for text in [*_misfit_spaces(term, growth), *_misfit_depth(term, growth)]:
            yield text if len(operator.terms) == 1 else f"term {number}: {text}"
    norms = {norm.eps for norm in family.relations.norms}
    for key, factor in operator.eps_scale.items():
        if key not in norms or not np.isfinite(factor) or factor <= 0:
            yield f"eps_scale.{key} = {factor}: must be a positive factor of one of {', '.join(sorted(norms))}"


def _misfit_spaces(term: Term, growth: Growth) -> Iterator[str]:
    family = growth.small.family
    for name in term.spaces.keys() - family.spaces.keys():
        yield f"space {name} is not one of the family's"
    for name, space in family.spaces.items():
        if name not in term.spaces:
            yield f"space {name} has no maps"
            continue
        wanted = growth.large.width(name), growth.small.width(name)
        for role in ("out", "in", "gain"):
            key = term.spaces[name].of(role)
            if key not in term.maps:
                yield f"space {name} names a map {key!r} that is not there"
                continue
            choices = term.maps[key]
            allowed = (1, growth.large.layers) if space.per == "layer" else (1,)
            if len(choices) not in allowed:
                yield f"map {key} of space {name} comes {len(choices)} times; allowed: {allowed}"
            for map_ in choices:
                if wanted != (None, None) and map_.shape != wanted:
                    yield f"map {key} has shape {map_.shape}; space {name} needs (large, small) = {wanted}"
                elif wanted == (None, None) and not isinstance(map_, Identity):
                    yield f"map {key}: space {name} has no declared size, only the identity maps it"


def _misfit_depth(term: Term, growth: Growth) -> Iterator[str]:
    layered = [name for name in growth.small.family.tensors if LAYER in name]
    wanted = growth.large.layers, growth.small.layers
    for key, mix in term.depth.items():
        if key != ALL and key not in layered:
            yield f"depth map {key} is for no layer tensor of the family"
        if mix.shape != wanted:
            yield f"depth map {key} has shape {mix.shape}; (layers_large, layers_small) = {wanted} is needed"
        elif not np.isfinite(mix).all():
            yield f"depth map {key} is not finite"
    if ALL not in term.depth:
        yield from (f"tensor {name} has no depth map" for name in layered if name not in term.depth)
