"""Tools for tests, ours and those of third parties: drawn growths and maps, and the suite that backends must pass.

Needs hypothesis. Strategies draw structure (families, sizes, methods, kinds of maps) and a seed; values come from a
generator of that seed, normal and never constant, because constant or symmetric values hide a missing transpose.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_origin

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from ligo_spec import reference
from ligo_spec.architecture import Architecture
from ligo_spec.backend import Backend
from ligo_spec.draws import Draws
from ligo_spec.errors import LigoError
from ligo_spec.family import Family, FlagRule, at_layer, family_names, load_family, piece, template_pattern
from ligo_spec.family_sizes import can_grow, index_sizes, small_configs, target_parts, turns_pairs
from ligo_spec.layer_kinds import fixed_kinds, grown_layers, same_kind
from ligo_spec.maps import Blocks, Dense, Identity, Kron, Map, Select, arrays_of, dense, with_arrays
from ligo_spec.methods import DEPTH_METHODS, OPTIONS, WIDTH_METHODS, build_operator
from ligo_spec.operator import Growth, Mix, Operator, SpaceMaps, Term, every
from ligo_spec.operator_check import check_operator
from ligo_spec.plan import OperatorChoice
from ligo_spec.recipe import compile_recipes, run
from ligo_spec.reference_check import rounding_bound

__all__ = [
    "DrawnGrowth",
    "architectures",
    "check_backend",
    "expected",
    "growths",
    "maps",
    "operators",
    "random_small",
    "targets",
]

Array = npt.NDArray[Any]

LABELS = 3
"""Size of a dimension that only a file knows."""


# --- maps -------------------------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn, small: int | None = None, large: int | None = None, *, depth: int = 2) -> Map:
    """Random maps of shape ``(large, small)``, of every structure.

    Args:
        draw: Given by hypothesis.
        small: Size of the small space; drawn where it is left out.
        large: Size of the large space; drawn where it is left out, smaller ones too: maps are maps.
        depth: How deep blocks and Kronecker products may nest.
    """
    small = draw(st.integers(1, 6)) if small is None else small
    large = draw(st.integers(1, 8)) if large is None else large
    kinds = ["select", "weighted", "dense"]
    kinds += ["identity"] if small == large else []
    kinds += ["blocks"] if large > 1 and depth else []
    kinds += ["kron"] if depth else []
    kind = draw(st.sampled_from(kinds))
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "identity":
        return Identity(small)
    if kind == "dense":
        return Dense(values.standard_normal((large, small)))
    if kind == "blocks":
        cut = draw(st.integers(1, large - 1))
        return Blocks(tuple(draw(maps(small, rows, depth=depth - 1)) for rows in (cut, large - cut)))
    if kind == "kron":
        outer = draw(st.sampled_from(_divisors(large))), draw(st.sampled_from(_divisors(small)))
        inner = large // outer[0], small // outer[1]
        return Kron(draw(maps(outer[1], outer[0], depth=depth - 1)), draw(maps(inner[1], inner[0], depth=depth - 1)))
    weight = values.standard_normal(large) * (values.random(large) > 0.2) if kind == "weighted" else None
    return Select(values.integers(0, small, large), small, weight)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


# --- architectures and growths ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DrawnGrowth:
    """A drawn growth: what grows, by which methods, and the operator that they give.

    Args:
        growth: Small and large architecture.
        choice: The methods.
        seed: Of the operator's draws.
        operator: The operator.
    """

    growth: Growth
    choice: OperatorChoice
    seed: int
    operator: Operator

    def __repr__(self) -> str:
        """What a person needs to repeat it."""
        small, large = dict(self.growth.small.sizes), dict(self.growth.large.sizes)
        changed = {name: (small[name], large[name]) for name in small if small[name] != large[name]}
        flags = dict(self.growth.small.flags)
        chosen = self.choice.model_dump(exclude_none=True)
        return f"<{self.growth.small.family.name} {small} grows {changed}, {flags}, {chosen}, seed {self.seed}>"


def architectures(family: Family, config: Mapping[str, Any] | None = None) -> st.SearchStrategy[Architecture]:
    """Small architectures of a family, every size and flag drawn.

    Args:
        family: The declaration.
        config: More keys of the ``config.json``, which win over those that are drawn.
    """
    named = {rule.config: _flag_values(rule) for rule in family.flags.values() if rule.config is not None}
    flags = st.fixed_dictionaries(named)
    more = {"model_type": family.name, **(config or {})}

    def made(sizes: Mapping[str, int]) -> st.SearchStrategy[Architecture]:
        drawn = st.tuples(flags, _numbered_layers(family, sizes))
        return drawn.map(
            lambda keys: Architecture.from_hf_config(family, {**sizes, **_there(keys[0]), **keys[1], **more})
        )

    return st.sampled_from(small_configs(family)).flatmap(made).filter(turns_pairs)


def _numbered_layers(family: Family, sizes: Mapping[str, int]) -> st.SearchStrategy[dict[str, Any]]:
    """Numbers of layers for the keys that list them, and periods of the others."""
    found: dict[str, st.SearchStrategy[Any]] = {}
    for key, rule in family.layer_lists.items():
        count = family.stacks[family.stack_of_list(key)].count
        if rule.listed is not None:
            layers = range(sizes[family.sizes[count].config or count])
            found[key] = st.lists(st.sampled_from(layers), unique=True).map(sorted)
            found |= {name: st.sampled_from([1, 2]) for name in (rule.period.config[:1] if rule.period else ())}
    return st.fixed_dictionaries(found)


def _there(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if value is not None}


def _flag_values(rule: FlagRule) -> st.SearchStrategy[Any]:
    if rule.equals is None:
        return st.booleans() | st.none() if isinstance(rule.default, str) else st.booleans()
    return st.none() | st.sampled_from(rule.equals if isinstance(rule.equals, tuple) else (rule.equals,))


@st.composite
def targets(draw: st.DrawFn, small: Architecture) -> Growth:
    """Growths of a small architecture to any sizes that its family allows; nothing may grow too."""
    parts = target_parts(small, twice=draw(st.booleans()))  # else some of many sizes always lie between
    target = {name: size for part in parts for name, size in draw(st.sampled_from(part)).items()}
    if draw(st.integers(0, 3)) == 0:  # among targets of all sizes, those of more layers alone would be rare
        counts = {stack.count for stack in small.family.stacks.values()}
        target = {name: size for name, size in target.items() if name in counts}
    assume(can_grow(small, target))
    if draw(st.integers(0, 4)) == 0:  # a larger vocabulary changes what is predicted, so most have none
        target = target | {name: small.sizes[name] + draw(st.integers(0, 4)) for name in index_sizes(small.family)}
    return Growth(small, small.grown(target))


@st.composite
def growths(
    draw: st.DrawFn,
    families: Sequence[str] | None = None,
    width: Sequence[str | None] = (*WIDTH_METHODS, None),
    depth: Sequence[str | None] = (*DEPTH_METHODS, None),
    config: Mapping[str, Any] | None = None,
) -> DrawnGrowth:
    """Growths of random sizes by random methods with random options, where the methods have a rule for the sizes.

    Args:
        draw: Given by hypothesis.
        families: Names to draw from; all shipped ones where it is left out.
        width: Width methods to draw from; None keeps the width.
        depth: Depth methods to draw from; None keeps the layers.
        config: More keys of the small ``config.json``.
    """
    family = load_family(draw(st.sampled_from(list(families or family_names()))))
    growth = draw(draw(architectures(family, config).map(targets)))
    chosen = {"width": draw(st.sampled_from(list(width))), "depth": draw(st.sampled_from(list(depth)))}
    named = {axis: draw(_method(name, growth)) for axis, name in chosen.items() if name is not None}
    choice = OperatorChoice.model_validate(named)
    seed = draw(st.integers(0, 2**16))
    try:
        operator = build_operator(growth, choice.width, choice.depth, seed=seed)
    except LigoError:
        assume(False)
        raise
    return DrawnGrowth(growth, choice, seed, operator)


@st.composite
def _method(draw: st.DrawFn, name: str, growth: Growth) -> dict[str, Any]:
    """A method with values for those of its options that have a few named ones, or that ``_FREE`` knows."""
    found: dict[str, Any] = {"method": name}
    for key, field in OPTIONS[name].model_fields.items():
        if key != "method" and (values := _values(field)):
            found[key] = draw(st.sampled_from(values))
        elif key in _FREE:
            found[key] = draw(_FREE[key](growth))
    return found


def _block(growth: Growth) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(1, max(growth.small.depths.values()))


@st.composite
def _layers(draw: st.DrawFn, growth: Growth) -> str | dict[str, str]:
    """A text for every stack that names as many layers as it has, each where its kind can be."""
    texts = {}
    for stack in growth.small.family.stacks:
        main = draw(_places(growth, stack))
        starts = [0, *(i for i in range(1, len(main)) if main[i] != main[i - 1] + 1), len(main)]
        runs = [main[a:b] for a, b in itertools.pairwise(starts)]
        texts[stack] = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return texts if len(texts) > 1 else next(iter(texts.values()))


_FREE: dict[str, Callable[[Growth], st.SearchStrategy[Any]]] = {"block": _block, "layers": _layers}
"""Values for options of depth methods that any number or text may be."""


def _values(field: FieldInfo) -> list[Any]:
    if field.examples:
        return [field.default, *field.examples]
    return sorted(field.annotation.__args__) if get_origin(field.annotation) is Literal else []  # type: ignore[union-attr]


@st.composite
def operators(draw: st.DrawFn, growth: Growth) -> Operator:
    """Arbitrary operators for a growth: any maps, one or several terms, shared or per layer, any depth maps."""
    places = {stack: draw(_places(growth, stack)) for stack in growth.small.family.stacks}
    terms = [draw(_terms(growth, places)) for _ in range(draw(st.integers(1, 2)))]
    if len(terms) > 1 and draw(st.booleans()):  # terms that are for some tensors, at least one for each
        some = frozenset(name for name in growth.small.family.tensors if draw(st.booleans()))
        rest = growth.small.family.tensors.keys() - some
        assume(some and rest)
        terms = [replace(terms[0], tensors=frozenset(rest)), *(replace(term, tensors=some) for term in terms[1:])]
    operator = Operator(growth.small.family.name, growth.small.sizes, growth.large.sizes, tuple(terms))
    check_operator(operator, growth)
    return operator


@st.composite
def _places(draw: st.DrawFn, growth: Growth, stack: str) -> list[int]:
    """A small layer that each large layer of a stack may come from."""
    fixed, there = fixed_kinds(growth.large, stack), fixed_kinds(growth.small, stack)
    return [draw(st.sampled_from([j for j, kind in enumerate(there) if kind == wanted])) for wanted in fixed]


@st.composite
def _terms(draw: st.DrawFn, growth: Growth, places: Mapping[str, Sequence[int]]) -> Term:
    family = growth.small.family
    named: dict[str, tuple[Map, ...]] = {}
    spaces = {}
    for name, space in family.spaces.items():
        small, large = growth.small.width(name), growth.large.width(name)
        count = 1 if space.per == "model" else draw(st.sampled_from([1, growth.large.depth(space.per)]))
        for role in ("out", "in", "gain"):
            own = (draw(maps(small, large)) for _ in range(count))
            named[f"{name}.{role}"] = (Identity(1),) if small is None else tuple(own)
        spaces[name] = SpaceMaps(f"{name}.out", f"{name}.in", f"{name}.gain")
    depth: dict[str, Mix] = {}
    for stack, main in places.items():
        depth |= draw(_depths(growth, stack, main))
    return Term(named, spaces, depth)


@st.composite
def _depths(draw: st.DrawFn, growth: Growth, stack: str, main: Sequence[int]) -> dict[str, Mix]:
    """A depth map for a stack, and others for some of its tensors."""
    family = growth.small.family
    own = [template for template in family.tensors if family.stack_of(template) == stack and draw(st.booleans())]
    return {key: draw(_mixes(growth, stack, main)) for key in (every(stack), *own)}


@st.composite
def _mixes(draw: st.DrawFn, growth: Growth, stack: str, main: Sequence[int]) -> Mix:
    """Any weights of layers that are of one kind with the one that each large layer comes from."""
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    allowed = same_kind(growth, stack, main)
    made = values.standard_normal(allowed.shape) * (values.random(allowed.shape) > 0.3) * allowed
    if not allowed.all():  # a layer that comes from nowhere is of no kind
        made[np.arange(len(main)), main] = 1.0
    return made


def random_small(architecture: Architecture, seed: int = 0, dtype: Any = np.float32) -> dict[str, Array]:
    """Random values for every canonical tensor that the family declares, optional ones too, by canonical name."""
    made = {}
    for template in architecture.family.tensors:
        shape = [LABELS if side is None else side for side in architecture.shape(template)]
        for name in architecture.names(template):
            made[name] = Draws(seed).of(name).standard_normal(shape).astype(dtype)
    return made


# --- what a backend must compute --------------------------------------------------------------------------------------


def expected(family: Family, operator: Operator, small: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """The reference's large tensors, and how far rounding may take a backend from them, by canonical name.

    Args:
        family: The declaration.
        operator: The maps.
        small: The small tensors, of one dtype.
    """
    dtype = next(iter(small.values())).dtype
    sizes = reference.grow(family, _absolute(operator), {name: np.abs(value) for name, value in small.items()})
    depth = max(operator.small[stack.count] for stack in family.stacks.values())
    terms = 4 + depth + sum(map_.shape[1] for map_ in _widest(family, operator))
    found = reference.grow(family, operator, small)
    offsets = {
        at_layer(template, layer): 2 * abs(tensor.offset)  # added, and taken away from what comes of it
        for template, tensor in family.tensors.items()
        for layer in grown_layers(family, operator, template)
    }
    return {n: (value, rounding_bound(sizes[n] + offsets[n], terms, dtype)) for n, value in found.items()}


def _absolute(operator: Operator) -> Operator:
    terms = tuple(
        Term(
            {name: tuple(with_arrays(map_, np.abs) for map_ in choices) for name, choices in term.maps.items()},
            term.spaces,
            {key: np.abs(mix) for key, mix in term.depth.items()},
            term.tensors,
        )
        for term in operator.terms
    )
    return replace(operator, terms=terms)


def _widest(family: Family, operator: Operator) -> Iterator[Map]:
    """The largest map of every term, for every dimension that a tensor may have."""
    dimensions = max(len(tensor.dims) for tensor in family.tensors.values())
    for term in operator.terms:
        widest = max((map_ for choices in term.maps.values() for map_ in choices), key=lambda map_: map_.shape[1])
        yield from [widest] * dimensions


def check_backend(backend: Backend[Any], *, examples: int = 50) -> None:
    """The conformance suite: hold a backend to the float64 reference on random maps, operators and growths.

    Args:
        backend: What is to be checked.
        examples: How many random cases each of the checks draws.

    Raises:
        AssertionError: The backend computes something else; hypothesis prints the smallest case that it found.
    """
    for check in (_check_arrays, _check_map, _check_mix):
        _repeat(check, backend, 4 * examples, list(Phase))
    for check in (_check_methods, _check_operators):  # a whole model takes minutes to shrink
        _repeat(check, backend, examples, [Phase.generate])


Check = Callable[[Backend[Any], st.DataObject], None]


def _repeat(check: Check, backend: Backend[Any], examples: int, phases: Sequence[Phase]) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        check(backend, data)

    holds()


def _check_arrays(backend: Backend[Any], data: st.DataObject) -> None:
    """Values and dtype survive, and the backend does not write into what it was given."""
    value = _drawn_array(data, data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    back = backend.to_numpy(backend.from_numpy(value))
    assert back.dtype == value.dtype, f"from_numpy and to_numpy turned {value.dtype} into {back.dtype}"
    np.testing.assert_array_equal(back, value)


def _check_map(backend: Backend[Any], data: st.DataObject) -> None:
    """``apply_map`` is the dense matrix along an axis, whatever the structure of the map."""
    map_ = data.draw(maps())
    before, after = (
        data.draw(st.lists(st.integers(1, 3), max_size=2)),
        data.draw(st.lists(st.integers(1, 3), max_size=1)),
    )
    value = _drawn_array(data, [*before, map_.shape[1], *after])
    kept, arrays = value.copy(), [array.copy() for array in arrays_of(map_)]
    axis = len(before)
    found = backend.to_numpy(backend.apply_map(map_, backend.from_numpy(value), axis))
    matrix = dense(map_)
    want = np.moveaxis(np.tensordot(matrix, value.astype(np.float64), axes=(1, axis)), 0, axis)
    size = np.moveaxis(np.tensordot(np.abs(matrix), np.abs(value.astype(np.float64)), axes=(1, axis)), 0, axis)
    _assert_close(
        found, want, rounding_bound(size, 4 + map_.shape[1], value.dtype), value.dtype, f"{map_}, axis {axis}"
    )
    np.testing.assert_array_equal(value, kept, "apply_map wrote into its input")
    for array, copy in zip(arrays_of(map_), arrays, strict=True):
        np.testing.assert_array_equal(array, copy, "apply_map wrote into the map")


def _check_mix(backend: Backend[Any], data: st.DataObject) -> None:
    """``mix`` is the weighted sum, at any weights, and leaves its inputs alone."""
    count = data.draw(st.integers(1, 4))
    values = _drawn_array(data, [count, *data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))])
    weights = _drawn_array(data, [count]).astype(np.float64)
    kept = values.copy()
    found = backend.to_numpy(backend.mix([backend.from_numpy(value) for value in values], weights.tolist()))
    want = np.tensordot(weights, values.astype(np.float64), axes=1)
    size = np.tensordot(np.abs(weights), np.abs(values.astype(np.float64)), axes=1)
    _assert_close(found, want, rounding_bound(size, 4 + count, values.dtype), values.dtype, f"mix of {count}")
    np.testing.assert_array_equal(values, kept, "mix wrote into its inputs")


def _check_methods(backend: Backend[Any], data: st.DataObject) -> None:
    """Growths by the methods: every tensor of the large model."""
    drawn = data.draw(growths())
    _check_operator(backend, data, drawn.growth, drawn.operator)


def _check_operators(backend: Backend[Any], data: st.DataObject) -> None:
    """Operators that no method makes: any maps, sums of terms, depth maps per tensor."""
    family = load_family(data.draw(st.sampled_from(family_names())))
    growth = data.draw(targets(data.draw(architectures(family))))
    _check_operator(backend, data, growth, data.draw(operators(growth)))


def _check_operator(backend: Backend[Any], data: st.DataObject, growth: Growth, operator: Operator) -> None:
    family = growth.small.family
    small = random_small(growth.small, data.draw(_SEEDS), data.draw(_DTYPES))
    dtype = next(iter(small.values())).dtype
    wanted = expected(family, operator, small)
    sliced = set().union(*(layout.in_pieces for layout in family.layouts.values()))
    for in_pieces in [set(), sliced] if sliced else [set()]:
        stored, left = _in_pieces(small, in_pieces), _in_pieces(wanted, in_pieces)
        for recipe in compile_recipes(family, operator, family.tensors, in_pieces):
            value, bound = left.pop(recipe.name)
            _assert_close(run(recipe, stored.__getitem__, backend), value, bound, dtype, recipe.name)
        assert not left, f"no recipe for {', '.join(left)}"


def _in_pieces(tensors: Mapping[str, Any], templates: Collection[str]) -> dict[str, Any]:
    """The same tensors, or pairs of them, with those of ``templates`` cut into slices of their first dimension."""
    found = dict(tensors)
    for name in [name for template in templates for name in tensors if template_pattern(template).fullmatch(name)]:
        whole = found.pop(name)
        slices = zip(*whole, strict=True) if isinstance(whole, tuple) else whole
        found |= {piece(name, number): value for number, value in enumerate(slices)}
    return found


def _assert_close(found: Array, want: Array, bound: Array, dtype: Any, what: str) -> None:
    assert found.dtype == dtype, f"{what}: {dtype} became {found.dtype}"
    assert found.shape == want.shape, f"{what}: shape {found.shape}, wanted {want.shape}"
    excess = float((np.abs(found.astype(np.float64) - want) / bound).max(initial=0.0))
    assert excess <= 1, f"{what}: {excess:.3g} times its rounding bound away from the reference"


_SEEDS = st.integers(0, 2**32 - 1)
_DTYPES = st.sampled_from(["float32", "float64"])


def _drawn_array(data: st.DataObject, shape: Sequence[int]) -> Array:
    values = np.random.default_rng(data.draw(_SEEDS)).standard_normal(shape)
    return values.astype(data.draw(_DTYPES))
