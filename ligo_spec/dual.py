"""The dual of an operator: what becomes of gradients, and so of an optimizer's moments (SPEC 7.5).

With ``W' = B W Aᵀ`` lossless, ``G' = A_out G B_inᵀ``: the maps change places. A first moment is linear in gradients,
so it maps alike; a second moment maps by the squares of the entries. Of a sum of terms the first one counts, as it says
how activations are carried over. Of an operator that changes the function the same is said, and is an approximation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ligo_spec.certify import Broken, certify
from ligo_spec.family import Dim, at_layer
from ligo_spec.gradients import Carried, GradientMaps, padded
from ligo_spec.layer_kinds import grown_layers
from ligo_spec.layer_kinds import sources as main_sources
from ligo_spec.map_products import entrywise, first_rows, squared, without_rows
from ligo_spec.maps import Identity, Map, equal, scaled
from ligo_spec.measures import isometry, nonzero_rows
from ligo_spec.operator import Growth, Operator, Term
from ligo_spec.recipe import RecipeTerm, TensorRecipe
from ligo_spec.relations import Norm, Scale
from ligo_spec.silence import silent

Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class DimRows:
    """Rows along one dimension of a large tensor, ``(large,)`` each.

    Args:
        new: No old gradient says anything of them: zero in the dual map.
        later: Copies of an entry that an earlier row has already.
        exact: The dual map is right for every lossless model; everything in such a tensor's other rows is a guess.
    """

    new: Rows
    later: Rows
    exact: Rows


@dataclass(frozen=True, eq=False)
class TensorDual:
    """What becomes of the moments of one tensor.

    Args:
        name: Canonical name of the large tensor.
        template: The same with ``{i}`` for the layer.
        term: Small tensors, weights that sum to 1, and the dual map of every dimension.
        rows: What is to know of every dimension.
        starts_anew: The whole tensor has no old state: a layer that adds nothing yet, or comes from none.
        repeats: Its layer is not the first that comes from its source.
    """

    name: str
    template: str
    term: RecipeTerm
    rows: tuple[DimRows, ...]
    starts_anew: bool
    repeats: bool

    @property
    def source(self) -> str:
        """Canonical name of the small tensor that counts most."""
        return max(self.term.sources, key=lambda pair: pair[1])[0]

    @property
    def first(self) -> TensorRecipe:
        """The recipe of a first moment, and of a gradient."""
        return TensorRecipe(self.name, self.template, (self.term,))

    @property
    def second(self) -> TensorRecipe:
        """The recipe of a second moment: entries of the maps squared, layers mixed as they are."""
        maps = tuple(None if map_ is None else squared(map_) for map_ in self.term.maps)
        return TensorRecipe(self.name, self.template, (replace(self.term, maps=maps),))

    def outer(self, kind: str, *, every: bool = False) -> npt.NDArray[np.bool_]:
        """Entries of which one dimension's row is ``new`` or ``later`` (with ``every``: all are ``exact``)."""
        total: npt.NDArray[np.bool_] = np.full((), every, dtype=np.bool_)
        for axis, rows in enumerate(self.rows):
            shape = [-1 if axis == other else 1 for other in range(len(self.rows))]
            row = getattr(rows, kind).reshape(shape)
            total = total & row if every else total | row
        return total


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual of an operator.

    Args:
        tensors: By canonical name, for every tensor that the large model has.
        broken: Conditions for losslessness that the operator breaks.
        exact: Every moment that is not new follows exactly from the small model's gradients.
    """

    tensors: Mapping[str, TensorDual]
    broken: tuple[Broken, ...]

    @cached_property
    def exact(self) -> bool:
        """Whether everything that is not new is exact."""
        return not self.broken and all(
            bool((rows.exact | rows.new).all()) for dual in self.tensors.values() for rows in dual.rows
        )


def dual_of(growth: Growth, operator: Operator, templates: Collection[str]) -> Dual:
    """The dual of an operator for a model that has the tensors of ``templates``."""
    growth = growth.only(templates)
    broken = certify(growth, operator)
    widths = _Widths(growth, operator, broken)
    found: dict[str, TensorDual] = {}
    for template in growth.small.family.tensors:
        if template in templates:
            for dual in _duals(growth, operator, template, widths):
                found[dual.name] = dual
    return Dual(found, tuple(broken))


def _duals(growth: Growth, operator: Operator, template: str, widths: _Widths) -> Iterator[TensorDual]:
    for layer in grown_layers(growth.small.family, operator, template):
        carried = widths.dims(template, layer)
        weights = _weights(growth, operator.main, template, layer)
        yield TensorDual(
            name=at_layer(template, layer),
            template=template,
            term=RecipeTerm(tuple(weights.items()), tuple(_kept(part.map) for part in carried)),
            rows=tuple(_rows(part) for part in carried),
            starts_anew=widths.is_new(template, layer),
            repeats=widths.is_repeated(template, layer),
        )


def _weights(growth: Growth, term: Term, template: str, layer: int | None) -> dict[str, float]:
    """Small tensors and their part in the mix: a layer's row without signs, so that it is an average."""
    family = growth.small.family
    if layer is None:
        return {template: 1.0}
    row = np.abs(term.mix(template)[layer].astype(np.float64))
    there = [j for j in range(row.size) if family.in_layer(template, j)]
    total = float(row[there].sum())
    if total == 0:
        return {at_layer(template, there[0]): 1.0}
    return {at_layer(template, j): float(row[j]) / total for j in there if row[j]}


def _rows(carried: Carried) -> DimRows:
    zero = ~nonzero_rows(carried.map)
    return DimRows(zero, ~zero & ~first_rows(carried.map), carried.exact)


def _kept(map_: Map) -> Map | None:
    return None if isinstance(map_, Identity) else map_


class _Widths:
    """The dual maps of dimensions, and which layers have no old state."""

    def __init__(self, growth: Growth, operator: Operator, broken: Collection[Broken]) -> None:
        self.growth, self.family = growth, growth.small.family
        keeps_width = all(item.condition in ("depth", "index") for item in broken)
        self.main = {stack: self._sources(operator, stack) for stack in self.family.stacks}
        self.silent = {stack: self._silent(operator, stack) for stack in self.family.stacks}
        self.operator = operator
        self.maps = GradientMaps(growth, operator, self.main) if keeps_width else None

    def _sources(self, operator: Operator, stack: str) -> list[int]:
        """The small layer behind every large one; none of a stack of which the model has no tensor."""
        there = any(self.family.stack_of(name) == stack for name in self.family.tensors)
        return main_sources(operator.main, self.family, stack) if there else []

    def _silent(self, operator: Operator, stack: str) -> set[int]:
        """The large layers that add nothing to the stream yet."""
        main = enumerate(self.main[stack])
        return {layer for layer, source in main if silent(operator, self.family, stack, layer, source)}

    def is_new(self, template: str, layer: int | None) -> bool:
        """Whether a tensor is in a layer that adds nothing to the stream, or comes from no layer."""
        stack = self.family.stack_of(template)
        if layer is None or stack is None:
            return False
        used = self.operator.terms_of(template)
        return layer in self.silent[stack] or not any(term.mix(template)[layer].any() for term in used)

    def is_repeated(self, template: str, layer: int | None) -> bool:
        """Whether an earlier layer, that is no new one, comes from the same source."""
        stack = self.family.stack_of(template)
        if layer is None or stack is None:
            return False
        earlier = [i for i in range(layer) if i not in self.silent[stack]]
        return self.main[stack][layer] in [self.main[stack][i] for i in earlier]

    def dims(self, template: str, layer: int | None) -> list[Carried]:
        """The dual map of every dimension of a tensor; of a tied one, what all its names agree on."""
        own = self._dims(template, layer)
        for group in self.growth.small.ties:
            if template in group:
                others = [self._dims(name, None) for name in group if name != template]
                for other in others:
                    own = [_agreed(a, b) for a, b in zip(own, other, strict=True)]
        return own

    def _dims(self, template: str, layer: int | None) -> list[Carried]:
        touches = self.family.tensors[template].touches
        return [self._of(self.operator.main, template, dim, layer) for dim in touches]

    def _of(self, term: Term, template: str, dim: Dim, layer: int | None) -> Carried:
        if dim.role == "gain":
            return self._gain(term, template, dim, layer)
        if self.family.spaces[dim.space].fixed:
            map_ = padded(self.growth, dim.space)
            return Carried(map_, np.full(map_.shape[0], self.maps is not None))
        writes, reads = term.map(dim.space, "out", layer), term.map(dim.space, "in", layer)
        if self.maps is None:
            found, other = (reads, writes) if dim.role == "out" else (writes, reads)
            carried = Carried(found, np.zeros(found.shape[0], dtype=np.bool_))
        else:
            wants = self.maps.pulled if dim.role == "out" else self.maps.carried
            carried, other = wants(dim.space, layer), writes if dim.role == "out" else reads
        if carried.map.shape != other.shape:
            return carried
        # what is written and not read, or read and not written, is free: no old gradient says anything of it
        return replace(carried, map=without_rows(carried.map, ~carried.exact & ~nonzero_rows(other)))

    def _gain(self, term: Term, template: str, dim: Dim, layer: int | None) -> Carried:
        found = None if self.maps is None else self.maps.gain(template, layer)
        if found is not None:
            return found
        map_ = self._loose_gain(term, template, dim, layer)
        return Carried(map_, np.zeros(map_.shape[0], dtype=np.bool_))

    def _loose_gain(self, term: Term, template: str, dim: Dim, layer: int | None) -> Map:
        """``A ∘ B / κ``, or ``A`` of the gain's own space where that has no meaning."""
        relations = self.family.relations
        links: tuple[Norm | Scale, ...] = (*relations.norms, *relations.scales)
        for link in links:
            if link.gain != template:
                continue
            reads, pulls = term.map(link.reads, "out", layer), term.map(link.writes, "in", layer)
            if reads.shape != pulls.shape or getattr(link, "per", "space") == "head":
                break
            spread = isometry(reads, centred=link.kind == "layer_norm")[0] if isinstance(link, Norm) else 1.0
            return scaled(entrywise(pulls, reads), 1 / float(np.sqrt(spread)) if spread > 0 else 1.0)
        return term.map(dim.space, "in", layer)


def _agreed(first: Carried, second: Carried) -> Carried:
    """One tensor under two names: its gradient is the sum of both, so both must map alike."""
    if equal(first.map, second.map):
        return replace(first, exact=first.exact & second.exact)
    same = np.array([np.allclose(first.map.rows(p, p + 1), second.map.rows(p, p + 1)) for p in range(first.exact.size)])
    return replace(first, exact=first.exact & second.exact & same)
