"""The config of a model that comes without one: sizes from the shapes of its weights, heads from its Reshapes.

What weights and operators do not show is left to the defaults of the library: windows of attention, the base of rotary
positions, dropout. A size that is neither seen nor has a default is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ligo_onnx._claims import claims_of
from ligo_onnx._heads import Heads
from ligo_onnx._model import OnnxModel
from ligo_onnx._seen import Seen, seen
from ligo_onnx._settings import epsilons, flags, functions
from ligo_onnx._uses import Use
from ligo_onnx._values import Values
from ligo_spec import expressions
from ligo_spec.errors import InputError, Problem
from ligo_spec.family import Family

_REMEDY = "put the model's config.json beside it"


@dataclass(frozen=True)
class _Equation:
    """The product of sizes is a number, which a tensor's shape gives."""

    axes: tuple[str, ...]
    value: int
    tensor: str


def config_from_graph(
    model: OnnxModel,
    uses: Mapping[str, list[Use]],
    numbers: Mapping[str, tuple[int, ...]],
    family: Family,
    values: Values,
    where: str,
) -> dict[str, Any]:
    """A config of the family, as ``config.json`` would have it.

    Args:
        model: The graph.
        uses: Every way of every tensor.
        numbers: Values of the small tensors of whole numbers.
        family: What the caller says that the model is.
        values: Reads the constants that hold epsilons.
        where: The file, for messages.

    Raises:
        InputError: Shapes contradict each other, or a size or the number of heads is not to be seen.
    """
    found = seen(claims_of((use for ways in uses.values() for use in ways), family), family)
    if not found:
        raise InputError(Problem(where, f"no tensor of family {family.name} is in the graph; nothing tells its sizes"))
    sizes = _solved(family, found, Heads(model, numbers), where)
    sizes |= _from_inputs(family, found, model, sizes, where)
    config: dict[str, Any] = {"model_type": family.name}
    problems: list[Problem] = []
    for name, rule in family.sizes.items():
        if rule.config is not None and name in sizes:
            config[rule.config] = sizes[name]
        elif rule.config is not None and rule.default is None:
            problems.append(Problem(where, f"{name} cannot be seen in the graph; {_REMEDY}"))
    if problems:
        raise InputError(problems)
    return config | flags(family, found, values) | epsilons(model, family, found, values) | functions(model, family)


def _solved(family: Family, found: list[Seen], heads: Heads, where: str) -> dict[str, int]:
    """Sizes that satisfy every shape."""
    sizes = _counts(family, found, where)
    empty = next((one.name for one in found if 0 in one.shape), None)
    if empty is not None:
        raise InputError(Problem(where, f"{empty} has a side of 0; no size can be read from it"))
    equations = [equation for one in found for equation in _equations(family, one)]
    known = -1
    while known != len(sizes):
        known = len(sizes)
        for equation in equations:
            _solve(equation, sizes, where)
        for name, rule in family.sizes.items():
            computed = rule.default if rule.config is None and name not in sizes else None
            if computed is not None and expressions.names_in(computed) <= sizes.keys():
                sizes[name] = expressions.evaluate(computed, sizes)
        if known == len(sizes):
            _cut_heads(family, found, equations, heads, sizes, where)
    return sizes


def _from_inputs(
    family: Family, found: list[Seen], model: OnnxModel, sizes: Mapping[str, int], where: str
) -> dict[str, int]:
    """Sizes that only a formula has: the side of an image, which positions are computed from.

    Formulas round, so several sizes may give one count; of these, the one that is a side of an input is meant.
    """
    wanted = {
        equation.axes[0]: equation.value
        for one in found
        for equation in _equations(family, one)
        if len(equation.axes) == 1
    }
    sides = {side for shape in model.inputs.values() for side in shape if side}
    taken: dict[str, int] = {}
    for name, rule in family.sizes.items():
        unknown = expressions.names_in(rule.default) - sizes.keys() if rule.default else set()
        if rule.config is not None or name not in wanted or len(unknown) != 1:
            continue
        one = next(iter(unknown))
        fitting = [
            side for side in sides if expressions.evaluate(str(rule.default), {**sizes, one: side}) == wanted[name]
        ]
        if len(fitting) != 1:
            text = f"{one} is not clear from the graph: {name} is {wanted[name]}, sides of inputs are {sorted(sides)}"
            raise InputError(Problem(where, f"{text}; {_REMEDY}"))
        taken[one] = fitting[0]
    return taken


def _counts(family: Family, found: list[Seen], where: str) -> dict[str, int]:
    """How many layers every stack has."""
    layers: dict[str, set[int]] = {}
    for one in found:
        stack = family.stack_of(one.canonical[0])
        if stack is not None and one.layer is not None:
            layers.setdefault(family.stacks[stack].count, set()).add(one.layer)
    for count, numbers in layers.items():
        if numbers != set(range(len(numbers))):
            raise InputError(
                Problem(where, f"layers {sorted(numbers)[:20]} are in the graph, some before them are not")
            )
        assert count
    return {count: len(numbers) for count, numbers in layers.items()}


def _equations(family: Family, one: Seen) -> Iterator[_Equation]:
    dims = [family.tensors[template].touches for template in one.canonical]
    for place, side in enumerate(one.shape if len(one.shape) == len(dims[0]) else ()):
        axes = [tuple(family.spaces[dim[place].space].axes) for dim in dims]
        if any("*" in part for part in axes):
            continue
        if len(set(axes)) == 1:
            share = side // len(axes) if place == 0 else side
            yield _Equation(axes[0], share, one.name)


def _solve(equation: _Equation, sizes: dict[str, int], where: str) -> None:
    unknown = [axis for axis in equation.axes if axis not in sizes]
    product = prod(sizes[axis] for axis in equation.axes if axis in sizes)
    fits = product == equation.value if not unknown else equation.value % product == 0
    if not fits and len(unknown) < 2:
        text = " * ".join(f"{axis} {sizes.get(axis, '')}".strip() for axis in equation.axes)
        raise InputError(Problem(where, f"{equation.tensor} has a side of {equation.value}, others say {text}"))
    if len(unknown) == 1:
        sizes[unknown[0]] = equation.value // product


def _cut_heads(
    family: Family, found: list[Seen], equations: list[_Equation], heads: Heads, sizes: dict[str, int], where: str
) -> None:
    """The number of heads and their width, from what queries are cut into."""
    for attention in family.relations.attention:
        axes = tuple(family.spaces[attention.query].axes)
        width = next((equation.value for equation in equations if equation.axes == axes), None)
        if len(axes) != 2 or width is None or all(axis in sizes for axis in axes):
            continue
        pairs: set[tuple[int, int]] = set()
        for one in found:
            if not one.grouped and any(
                attention.query == dim.space for name in one.canonical for dim in family.tensors[name].touches
            ):
                for scope in one.use.scopes:
                    pairs |= heads.of(scope.rpartition(".")[0], width)
        if len(pairs) != 1:
            seen_as = ", ".join(f"{count} of {side}" for count, side in sorted(pairs)) or "none"
            text = f"how many heads {width} query channels are is not clear from the graph (cuts seen: {seen_as})"
            raise InputError(Problem(where, f"{text}; {_REMEDY}"))
        sizes |= dict(zip(axes, next(iter(pairs)), strict=True))
