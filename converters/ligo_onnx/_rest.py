"""What names do not tell: parameters that only one tensor can be, constants, and what stays unclear."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_onnx._recover import Found, Recovery, oriented
from ligo_onnx._shapes import Shape, fits, wanted_shape
from ligo_onnx._stored import Stored
from ligo_onnx._uses import Step, Use, simplified
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import FLOATS
from ligo_spec.errors import Problem, printable
from ligo_spec.layout import Slot

SMALL = 1024
"""Entries of a tensor that may stay unexplained: masks, tables of frequencies, sizes."""

MAX_CONSTANT = 1 << 26
"""Bytes of a tensor that is looked at to see whether it is a constant."""

_SHOWN = 4
_ROUNDING = 1e-2  # of halves, and of float32 angles at large positions
_DYNAMIC = "export the model with dynamic shapes"

Read = Callable[[Stored], npt.NDArray[Any]]


def by_shape(
    recovery: Recovery,
    missing: Mapping[str, Slot],
    uses: Mapping[str, list[Use]],
    architecture: Architecture,
    read: Read,
) -> None:
    """Give a missing parameter the one tensor that it can be, where that tensor can be no other missing one.

    Tables that were looked up when the model was exported, because its shapes were fixed, come back this way if they
    are whole.
    """
    taken = recovery.taken
    free = [use for name, ways in uses.items() if name not in taken for use in ways if use.node and _large(use.tensor)]
    offers = {name: _offers(slot, free, architecture, read) for name, slot in missing.items()}
    takers: dict[str, set[str]] = {}
    for name, found in offers.items():
        for tensor in found:
            takers.setdefault(tensor, set()).add(name)
    for name, found in offers.items():
        if len(found) == 1 and len(takers[next(iter(found))]) == 1:
            recovery.found[name] = next(iter(found.values()))
            recovery.slots[name] = missing[name]


def _offers(slot: Slot, free: Iterable[Use], architecture: Architecture, read: Read) -> dict[str, Found]:
    wanted = wanted_shape(slot, architecture)
    found: dict[str, Found] = {}
    for use in free:
        way = oriented(use, slot, architecture.family, by_name=False)
        if way is not None and fits(way[1], wanted):
            found[use.tensor.name] = Found(use.tensor, simplified(way[0], use.tensor.info.shape), way[1], "shape")
        elif use.role in ("plus", "other") and None not in wanted and len(wanted) > 1:
            step = _looked_up(use.tensor, wanted, slot, architecture, read)
            if step is not None:
                found[use.tensor.name] = Found(use.tensor, (step,), step.sizes, "shape")
    return found


def _looked_up(tensor: Stored, wanted: Shape, slot: Slot, architecture: Architecture, read: Read) -> Step | None:
    """How a table comes out of what a fixed shape made of it: ``[1, rows, width]``, or the same for every example."""
    roles = [dim.role for dim in architecture.family.tensors[slot.canonical[0]].touches]
    shape = tensor.info.shape
    sizes = tuple(int(side or 0) for side in wanted)
    if "in" not in roles[:-1] or tensor.info.dtype not in FLOATS or shape[-1:] != sizes[-1:]:
        return None
    if tuple(side for side in shape if side != 1) == tuple(side for side in sizes if side != 1):
        return Step("reshape", sizes)
    repeated = shape[0] > 1 and tuple(s for s in shape[1:] if s != 1) == tuple(s for s in sizes if s != 1)
    if not repeated or tensor.info.nbytes > MAX_CONSTANT:
        return None
    value = read(tensor)
    bits = value.view(f"u{value.dtype.itemsize}")
    return Step("first", sizes) if bool((bits == bits[:1]).all()) else None


def explain_missing(
    recovery: Recovery,
    missing: Mapping[str, Slot],
    uses: Mapping[str, list[Use]],
    architecture: Architecture,
    where: str,
) -> list[Problem]:
    """One problem for each parameter that the graph does not give, with what comes near it."""
    found: list[Problem] = []
    taken = recovery.taken
    free = [use.tensor for name, ways in uses.items() if name not in taken for use in ways[:1]]
    for name, slot in missing.items():
        wanted = wanted_shape(slot, architecture)
        text = f"{name} {_sizes(wanted)} is not in the graph"
        near = [tensor for tensor in free if _large(tensor) and sorted(tensor.info.shape) == sorted(map(_or_0, wanted))]
        cut = [] if near else [tensor for tensor in free if _is_part(tensor, wanted, slot, architecture)]
        if near and any(architecture.family.tensors[template].offset for template in slot.canonical):
            text += "; gains are stored as their difference from 1, which was added to them when constants were folded"
            text += ": export the model without constant folding"
        elif near:
            text += f"; {_list(near)} might be it, but nothing in the graph says so"
        elif cut:
            text += f" as a whole: it was looked up when the model was exported, {_list(cut)} may be of it; {_DYNAMIC}"
        found.append(Problem(where, text))
    return found


def _is_part(tensor: Stored, wanted: Shape, slot: Slot, architecture: Architecture) -> bool:
    """Whether a tensor may be rows of a table: as wide, with other axes before."""
    roles = [dim.role for dim in architecture.family.tensors[slot.canonical[0]].touches]
    shape = tensor.info.shape
    return "in" in roles[:-1] and len(shape) > 1 and shape[-1:] == wanted[-1:] and tensor.info.dtype in FLOATS


def unexplained(
    recovery: Recovery, uses: Mapping[str, list[Use]], tensors: Mapping[str, Stored], read: Read
) -> list[Stored]:
    """Large tensors of numbers that are neither parameters nor constants; those that are constants are noted."""
    found: list[Stored] = []
    taken = recovery.taken
    for name, tensor in tensors.items():
        shape = tensor.info.shape
        if name in taken or tensor.info.dtype not in FLOATS:
            continue
        if len(shape) < 2 or math.prod(shape) <= SMALL:
            continue
        reason = _constant(tensor, uses.get(name, []), read)
        if reason is None:
            found.append(tensor)
        else:
            recovery.constants[name] = reason
    return found


def _constant(tensor: Stored, ways: Sequence[Use], read: Read) -> str | None:
    """What a tensor is that no training made; None if it may be a parameter.

    Looked for only where nothing multiplies matrices with it: tables of rotary positions hold the cosine or the sine
    of 0 in their first row, masks two values.
    """
    if any(use.role in ("matrix", "kernel", "table", "gain", "shift") for use in ways) or not ways:
        return None
    if tensor.info.nbytes > MAX_CONSTANT:
        return None
    with np.errstate(all="ignore"):  # values that are not finite compare as unequal, which is what they should
        value = read(tensor).astype(np.float64)
        rows = value.reshape(-1, *value.shape[-2:])
        low, high = value.min(), value.max()
        if ((value == low) | (value == high)).all() and (low in (0, 1) or high in (0, 1)):
            return "a mask: two values"
        first = rows[:, 0]
        if np.abs(first - first.flat[0]).max() == 0 and _turns(rows):
            return "a table of rotary positions"
    return None


def _turns(rows: npt.NDArray[np.float64]) -> bool:
    """Whether rows are cosines or sines of multiples: ``f((n + 1) a) + f((n - 1) a) = 2 cos(a) f(n a)``, by column."""
    if rows.shape[1] < 4:
        return False
    at_zero = rows[:, 0]
    sines = not at_zero.any()
    # f(2a) = 2 cos(a) f(a) for sines, f(2a) = 2 cos(a) f(a) - f(0) for cosines: cos(a) from the first rows.
    base = rows[:, 1]
    cosine = rows[:, 2] / (2 * base) if sines else base / at_zero
    defect = rows[:, 2:] + rows[:, :-2] - 2 * cosine[:, None] * rows[:, 1:-1]
    return bool(np.isfinite(defect).all() and np.abs(defect).max() <= _ROUNDING * np.abs(rows).max())


def _large(tensor: Stored) -> bool:
    return tensor.info.dtype in FLOATS and bool(tensor.info.shape)


def _or_0(side: int | None) -> int:
    return side or 0


def _sizes(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _list(tensors: Sequence[Stored]) -> str:
    shown = ", ".join(f"{printable(t.name, 60)} {_sizes(t.info.shape)}" for t in tensors[:_SHOWN])
    return shown + (f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else "")
