"""What a grown checkpoint will hold, settled from headers before any value is read, and how each value is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.backend import Backend
from ligo_spec.checkpoint import DTYPES, FLOATS, TensorInfo
from ligo_spec.errors import InputError, NumericalError, Problem
from ligo_spec.job import Small
from ligo_spec.layer_kinds import settled
from ligo_spec.layout import Slot, pack, packed_shape, slots_of
from ligo_spec.operator import Growth, Operator
from ligo_spec.recipe import TensorRecipe, compile_recipes, grown_shape, run

PLAN_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""dtype names of plans and configs, and what safetensors calls them."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The tensors of the large checkpoint.

    Args:
        small: Where the values come from.
        slots: Tensors of the large file, by name.
        recipes: How each canonical tensor is made, by name.
        infos: Header of every tensor of the large file, copied ones too, by name.
    """

    small: Small
    slots: Mapping[str, Slot]
    recipes: Mapping[str, TensorRecipe]
    infos: Mapping[str, TensorInfo]

    def value(self, name: str, backend: Backend[Any]) -> npt.NDArray[Any]:
        """The values of one tensor of the large file, in its dtype and its file's layout.

        Raises:
            NumericalError: A value does not fit the dtype, or takes part in arithmetic and is not finite.
        """
        info = self.infos[name]
        if name not in self.slots:
            return self.small.checkpoint.read(name)
        slot = self.slots[name]
        packed = pack([self._made(self.recipes[part], info, backend) for part in slot.holds], slot.steps)
        return cast(np.ascontiguousarray(packed), info)

    def _made(self, recipe: TensorRecipe, info: TensorInfo, backend: Backend[Any]) -> npt.NDArray[Any]:
        """One canonical tensor: copied bits, or a value wide enough that storing it is the only rounding."""
        if recipe.copies:
            return run(recipe, self.small.read, backend)
        kinds = (info.dtype, self.small.dtype(recipe.sources[0]))
        wide = np.float64 if "F64" in kinds else np.float32
        with np.errstate(over="ignore"):
            made = run(recipe, lambda name: self.small.read(name).astype(wide, copy=False), backend)
        if not np.isfinite(made).all():
            raise NumericalError(Problem(info.name, f"mapped values overflow {np.dtype(wide).name}"))
        return made


def plan_outputs(small: Small, growth: Growth, operator: Operator, dtype: str = "keep") -> Outputs:
    """Settle the large checkpoint's tensors.

    Raises:
        InputError: The layers of one tensor have several dtypes, or one that cannot be mixed. All problems at once.
    """
    binding = small.binding
    compiled = compile_recipes(growth.small.family, operator, binding.templates(), binding.in_pieces)
    recipes = {recipe.name: recipe for recipe in compiled}
    slots = {slot.name: slot for slot in _large_slots(small, settled(growth, operator))}
    problems: list[Problem] = []
    infos = {name: small.checkpoint.tensors[name] for name in small.binding.copied}
    for name, slot in slots.items():
        parts = [recipes[part] for part in slot.holds]
        kinds = {small.dtype(source) for part in parts for source in part.sources}
        if len(kinds) > 1 or (kinds & set(FLOATS) != kinds and not all(part.copies for part in parts)):
            problems.append(
                Problem(name, f"would mix {', '.join(sorted(kinds))}; maps mix tensors of one of {', '.join(FLOATS)}")
            )
            continue
        kind = kinds.pop()
        large = [grown_shape(part, small.shape(part.sources[0])) for part in parts]
        kept = kind if dtype == "keep" or kind not in FLOATS else PLAN_DTYPES[dtype]
        infos[name] = TensorInfo(name, kept, packed_shape(large, slot.steps))
    if problems:
        raise InputError(problems)
    return Outputs(small, slots, recipes, infos)


def _large_slots(small: Small, growth: Growth) -> Iterator[Slot]:
    """Every tensor of the large file: layers renumbered, tied tensors stored once."""
    present = set(small.binding.sources())
    again = {
        name for first, *others in small.architecture.ties if first in present for name in others if name in present
    }
    for slot in {slot.template: slot for slot in small.binding.slots.values()}.values():
        if not again.issuperset(slot.holds):
            yield from slots_of(slot, growth.large)


def cast(value: npt.NDArray[Any], info: TensorInfo) -> npt.NDArray[Any]:
    """Values in the dtype of ``info``, rounded to the nearest.

    Raises:
        NumericalError: One does not fit.
    """
    wanted = DTYPES[info.dtype]
    if value.dtype == wanted:
        return value
    with np.errstate(over="ignore"):
        cast = value.astype(wanted)
    if not np.array_equal(np.isfinite(cast), np.isfinite(value)):
        raise NumericalError(
            Problem(info.name, f"values up to {float(np.abs(value).max()):.4g} do not fit {info.dtype}; keep the dtype")
        )
    return cast
