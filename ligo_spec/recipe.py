"""Compile an operator and a family into one recipe a tensor; run recipes on any backend.

A recipe says: read these tensors, mix them, apply these maps. Planning needs no value; running needs no family.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.backend import Backend
from ligo_spec.checkpoint import DTYPES, FLOATS
from ligo_spec.errors import InputError, NumericalError, Problem
from ligo_spec.family import Family, at_layer, piece
from ligo_spec.layer_kinds import grown_layers
from ligo_spec.maps import Identity, Map, Select, as_select
from ligo_spec.operator import Operator, Term

Array = npt.NDArray[Any]

Read = Callable[[str], Array]
"""Gives the values of a small tensor by its canonical name."""


@dataclass(frozen=True, eq=False)
class RecipeTerm:
    """One term of a recipe.

    Args:
        sources: Canonical names of small tensors, or of slices of them, and the weight of each in the mix.
        maps: One per dimension of a source; None for the identity.
    """

    sources: tuple[tuple[str, float], ...]
    maps: tuple[Map | None, ...]

    @property
    def selections(self) -> tuple[Select | None, ...] | None:
        """What each dimension selects, where the term only copies entries (no arithmetic); else None."""
        if len(self.sources) != 1 or self.sources[0][1] != 1:
            return None
        chosen = [None if map_ is None else as_select(map_) for map_ in self.maps]
        for map_, select in zip(self.maps, chosen, strict=True):
            if map_ is not None and (select is None or select.weight is not None):
                return None
        return tuple(chosen)


@dataclass(frozen=True, eq=False)
class TensorRecipe:
    """How one tensor of the large model is made.

    Args:
        name: Canonical name of the large tensor.
        template: The same with ``{i}`` for the layer.
        terms: Added up; none means zeros of the mapped shape (a layer without a source).
        offset: What stored values lack: it is added before, and taken away after, any arithmetic.
    """

    name: str
    template: str
    terms: tuple[RecipeTerm, ...]
    offset: float = 0.0

    @property
    def sources(self) -> tuple[str, ...]:
        """Canonical names of all small tensors that it needs, each once."""
        return tuple(dict.fromkeys(name for term in self.terms for name, _ in term.sources))

    @property
    def copies(self) -> bool:
        """Whether every entry is a bit-exact copy of one small entry."""
        return len(self.terms) == 1 and self.terms[0].selections is not None


def compile_recipes(
    family: Family, operator: Operator, templates: Iterable[str], in_pieces: Collection[str] = ()
) -> Iterator[TensorRecipe]:
    """One recipe per large tensor, for the templates that the small model has, in the family's order.

    Tensors of templates in ``in_pieces`` are made slice by slice along their first dimension, from slices of the small
    ones, one recipe each: no recipe needs all experts because a file has them.
    """
    wanted = set(templates)
    for template in family.tensors:
        if template not in wanted:
            continue
        for layer in grown_layers(family, operator, template):
            used = operator.terms_of(template)
            terms = tuple(_term(family, term, template, layer) for term in used)
            name, offset = at_layer(template, layer), family.tensors[template].offset
            if template not in in_pieces:
                yield TensorRecipe(name, template, terms, offset)
                continue
            first = [term.map(*family.tensors[template].touches[0], layer) for term in used]
            for expert in range(first[0].shape[0]):
                sliced = tuple(_slice(term, map_, expert) for term, map_ in zip(terms, first, strict=True))
                yield TensorRecipe(piece(name, expert), template, sliced, offset)


def grown_shape(recipe: TensorRecipe, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The large tensor's shape, from its small tensor's ``shape``."""
    maps = recipe.terms[0].maps
    return tuple(side if map_ is None else map_.shape[0] for side, map_ in zip(shape, maps, strict=True))


def run(recipe: TensorRecipe, read: Read, backend: Backend[Any]) -> Array:
    """Make one large tensor, in the dtype of its sources.

    Copies are index copies and keep every bit. Arithmetic runs in float32 (float64 for float64 sources) and is
    rounded once.

    Raises:
        InputError: Sources of several dtypes, or integers that a map would have to mix.
        NumericalError: A source that takes part in arithmetic is not finite.
    """
    sources = {name: read(name) for name in recipe.sources}
    if recipe.copies:
        value = sources[recipe.sources[0]]
        for axis, select in enumerate(recipe.terms[0].selections or ()):
            value = value if select is None else np.take(value, select.index, axis=axis)
        return value
    dtype = _one_dtype(recipe, sources)
    compute = np.float64 if dtype == np.float64 else np.float32
    ready = {
        name: backend.from_numpy(_shifted(value.astype(compute), recipe.offset)) for name, value in sources.items()
    }
    terms = [_run_term(term, ready, backend) for term in recipe.terms]
    total = terms[0] if len(terms) == 1 else backend.mix(terms, [1.0] * len(terms))
    return _shifted(backend.to_numpy(total), -recipe.offset).astype(dtype)


def _shifted(value: Array, offset: float) -> Array:
    return value + value.dtype.type(offset) if offset else value


def _term(family: Family, term: Term, template: str, layer: int | None) -> RecipeTerm:
    maps = [term.map(dim.space, dim.role, layer) for dim in family.tensors[template].touches]
    kept = tuple(None if isinstance(map_, Identity) else map_ for map_ in maps)
    if layer is None:
        return RecipeTerm(((template, 1.0),), kept)
    row = term.mix(template)[layer]
    there = [j for j in range(row.size) if family.in_layer(template, j)]
    used = [int(j) for j in np.flatnonzero(row)] or there[:1]  # a zero row still needs a tensor for the shape
    return RecipeTerm(tuple((at_layer(template, j), float(row[j])) for j in used), kept)


def _slice(term: RecipeTerm, first: Map, expert: int) -> RecipeTerm:
    """One slice of what a term gives along the first dimension, whose map takes small slices into the mix."""
    row = first.rows(expert, expert + 1)[0]
    used = np.flatnonzero(row) if row.any() else np.zeros(1, dtype=np.int64)  # as for a zero row of layers
    sources = tuple((piece(name, int(e)), weight * float(row[e])) for name, weight in term.sources for e in used)
    return RecipeTerm(sources, term.maps[1:])


def _run_term(term: RecipeTerm, ready: dict[str, Any], backend: Backend[Any]) -> Any:
    if len(term.sources) == 1 and term.sources[0][1] == 1:
        value = ready[term.sources[0][0]]
    else:
        value = backend.mix([ready[name] for name, _ in term.sources], [weight for _, weight in term.sources])
    for axis, map_ in enumerate(term.maps):
        if map_ is not None:
            value = backend.apply_map(map_, value, axis)
    return value


def _one_dtype(recipe: TensorRecipe, sources: dict[str, Array]) -> np.dtype[Any]:
    dtypes = {value.dtype for value in sources.values()}
    if len(dtypes) != 1:
        raise InputError(
            Problem(recipe.name, f"its sources have several dtypes: {', '.join(sorted(map(str, dtypes)))}")
        )
    dtype = dtypes.pop()
    if dtype not in [DTYPES[name] for name in FLOATS]:
        raise InputError(
            Problem(recipe.name, f"its sources hold {dtype}; only {', '.join(FLOATS)} can be mixed or mapped")
        )
    for name, value in sources.items():
        finite = np.isfinite(value)
        if not finite.all():
            place = tuple(int(side) for side in np.argwhere(~finite)[0])
            raise NumericalError(
                Problem(
                    name, f"{int((~finite).sum())} values are not finite, the first at {place}; maps cannot mix them"
                )
            )
    return dtype
