"""The operator document (``ligo/operator/1``): the maps of every space and the mixing of the layers.

``W'_i = Σ_t Σ_j D_t[i, j] · B_t,out W_j A_t,inᵀ`` (SPEC.md section 3). Maps have names, and spaces name the map
that they use in each role; two spaces (or two roles) that name one map are tied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError
from ligo_spec.family import EVERY, LAYER, Role
from ligo_spec.maps import Map

Mix = npt.NDArray[np.floating]


def every(stack: str) -> str:
    """The key of a depth map that serves every tensor of a stack's layers without one of its own: ``layers.*``."""
    return stack + EVERY


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
        depth: ``(layers_large, layers_small)`` by canonical template, ``STACK.*`` for all that have none of their own.
        tensors: Canonical templates of the tensors that it is for; None for all.
    """

    maps: Mapping[str, tuple[Map, ...]]
    spaces: Mapping[str, SpaceMaps]
    depth: Mapping[str, Mix]
    tensors: frozenset[str] | None = None

    def serves(self, template: str) -> bool:
        """Whether the term adds to a tensor."""
        return self.tensors is None or template in self.tensors

    def map(self, space: str, role: Role, layer: int | None) -> Map:
        """The map of a space in a role, at a layer of the large model (None outside the layers)."""
        choices = self.maps[self.spaces[space].of(role)]
        return choices[0] if len(choices) == 1 or layer is None else choices[layer]

    def has_depth(self, template: str) -> bool:
        """Whether there is a depth map for a layer tensor (later terms need them for their own tensors only)."""
        return template in self.depth or every(template.partition("." + LAYER)[0]) in self.depth

    def mix(self, template: str) -> Mix:
        """The depth map of a layer tensor, ``(layers_large, layers_small)``."""
        own = self.depth.get(template)
        return self.depth[every(template.partition("." + LAYER)[0])] if own is None else own


@dataclass(frozen=True, eq=False)
class Operator:
    """A growth operator: a sum of terms, and the factors of the norms' epsilons.

    Args:
        family: Name of the family.
        small: Sizes of the small model.
        large: Sizes of the large model.
        terms: At least one. The first has maps for every space and layer, which say how activations are carried over.
        eps_scale: Factor by config key, for norms whose epsilon must scale with their space (SPEC.md 5.3).
    """

    family: str
    small: Mapping[str, int]
    large: Mapping[str, int]
    terms: tuple[Term, ...]
    eps_scale: Mapping[str, float] = field(default_factory=dict)

    @property
    def main(self) -> Term:
        """The first term: its ``out`` maps are how activations are carried over."""
        return self.terms[0]

    def terms_of(self, template: str) -> tuple[Term, ...]:
        """The terms that add to a tensor."""
        return tuple(term for term in self.terms if term.serves(template))


@dataclass(frozen=True)
class Growth:
    """What is to grow: a small and a large architecture of one family."""

    small: Architecture
    large: Architecture

    def __post_init__(self) -> None:
        one = self.small.declared is self.large.declared or self.small.declared == self.large.declared
        if not one or self.small.flags != self.large.flags:
            raise InputError("growth needs two sizes of one family")

    def only(self, templates: Collection[str]) -> Growth:
        """The same growth of models that have just these tensors, and those that are tied to one of them.

        A tied tensor is stored once, so a file does not tell whether a model has the others.
        """
        tied = (name for group in self.small.ties if set(group) & set(templates) for name in group)
        family = self.small.family.only({*templates, *tied})
        return Growth(replace(self.small, family=family), replace(self.large, family=family))

    def ratio(self, space: str) -> float:
        """Small over large size of a space, ``d / d'``."""
        small, large = self.small.width(space), self.large.width(space)
        assert small is not None
        assert large is not None
        return small / large
