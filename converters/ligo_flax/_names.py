"""Between the names of Flax and those of PyTorch, as Transformers' own conversion has them, both ways.

What a leaf is called says how it lies there: ``kernel`` is the transposed weight, ``embedding`` and ``scale`` are the
weight of a table and of a norm. (Source: ``transformers/modeling_flax_pytorch_utils.py`` of release 4.46.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy.typing as npt

from ligo_flax._leaf import SEPARATOR, wrong_key, wrong_path
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.layout import Slot

PARAMS = "params" + SEPARATOR
STATISTICS = "batch_stats" + SEPARATOR
"""The collections of a tree that holds more than parameters; batch norms keep their running statistics in the second.
"""

WEIGHT, KERNEL, EMBEDDING, SCALE = "weight", "kernel", "embedding", "scale"

_STATISTICS = {"mean": "running_mean", "var": "running_var"}

# Ranks of a kernel, and the axes that bring it to PyTorch's order: a matrix; a convolution in one dimension, in two.
_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}

# The same from PyTorch's order to the kernel's.
_INVERSE = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}


@dataclass(frozen=True)
class View:
    """A tensor as PyTorch has it, out of an array of a tree.

    Args:
        info: Its name, dtype and shape on our side.
        merged: The shape to give the array first (heads and their coordinates become one dimension).
        axes: The order of its dimensions then.
    """

    info: TensorInfo
    merged: tuple[int, ...]
    axes: tuple[int, ...]

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The tensor, a view of the array."""
        return array.reshape(self.merged).transpose(self.axes)


def is_self_describing(path: str, shape: tuple[int, ...]) -> bool:
    """Whether name and rank say all; else it takes the family to tell heads from convolutions."""
    leaf = path.rpartition(SEPARATOR)[2]
    return not ((leaf == KERNEL and len(shape) == 3) or (leaf == "bias" and len(shape) == 2))


def torch_name(path: str, *, collections: bool) -> str:
    """The name of the tensor that a leaf is.

    Args:
        path: Of the leaf.
        collections: Whether the tree's first level is that of collections (``params``, ``batch_stats``).
    """
    statistics = collections and path.startswith(STATISTICS)
    if collections:
        path = path.removeprefix(PARAMS).removeprefix(STATISTICS if statistics else "")
    *parents, leaf = path.split(SEPARATOR)
    if statistics:
        leaf = _STATISTICS.get(leaf, leaf)
    elif leaf in (KERNEL, EMBEDDING, SCALE):
        leaf = WEIGHT
    return ".".join([*parents, leaf])


def view_of(name: str, leaf: TensorInfo, declared: tuple[int | None, ...] | None) -> View | str:
    """How an array becomes the tensor of a name, or what keeps it from it.

    Args:
        name: What `torch_name` says.
        leaf: The array: its path, dtype and shape in the file.
        declared: The tensor's shape by the family's declaration; None where there is none. It decides only for what
            is not `is_self_describing`.
    """
    shape, last = leaf.shape, leaf.name.rpartition(SEPARATOR)[2]
    if last == KERNEL and len(shape) == 3:
        return _of_three(name, leaf, declared)
    if last == "bias" and len(shape) == 2 and declared is not None and len(declared) == 1:
        return View(TensorInfo(name, leaf.dtype, (prod(shape),)), (prod(shape),), (0,))
    if last == KERNEL and len(shape) not in _AXES:
        return _as_it_is(name, leaf)
    return _turned(name, leaf, shape, _AXES[len(shape)] if last == KERNEL else tuple(range(len(shape))))


def _of_three(name: str, leaf: TensorInfo, declared: tuple[int | None, ...] | None) -> View | str:
    """A kernel of three dimensions: heads of a ``MultiHeadDotProductAttention``, or a convolution."""
    first, second, third = shape = leaf.shape
    if declared is None:
        return _as_it_is(name, leaf)
    if len(declared) == 3:
        return _turned(name, leaf, shape, _AXES[3])
    for merged in ((first, second * third), (first * second, third)):
        if declared == merged[::-1]:
            return _turned(name, leaf, merged, _AXES[2])
    return f"has shape {shape}; as heads, that is no kernel of a weight of shape {declared}, which the config asks for"


def _as_it_is(name: str, leaf: TensorInfo) -> View:
    """A kernel that nobody can place keeps its name, so that it is no weight by accident."""
    own = name.removesuffix(WEIGHT) + KERNEL
    return _turned(own, leaf, leaf.shape, tuple(range(len(leaf.shape))))


def _turned(name: str, leaf: TensorInfo, merged: tuple[int, ...], axes: tuple[int, ...]) -> View:
    return View(TensorInfo(name, leaf.dtype, tuple(merged[axis] for axis in axes)), merged, axes)


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """Where a tensor goes: the array's path, dtype and shape, and the order of the tensor's dimensions in it."""

    leaf: TensorInfo
    axes: tuple[int, ...]


def placed(info: TensorInfo, slot: Slot | None, architecture: Architecture) -> Placed | str:
    """Where a tensor of ours goes in a tree, or why it cannot go anywhere.

    Args:
        info: The tensor.
        slot: What the family says that it is; None for one that is not declared.
        architecture: The model.
    """
    *parents, last = info.name.split(".")
    rank = len(info.shape)
    leaf, axes = last, tuple(range(rank))
    if slot is not None and last == WEIGHT:
        leaf = _leaf_of(slot, rank, architecture)
        axes = _INVERSE[rank] if leaf == KERNEL else axes
    path = SEPARATOR.join([*parents, leaf])
    place = Placed(TensorInfo(path, info.dtype, tuple(info.shape[axis] for axis in axes)), axes)
    wrong = wrong_path(path) or next(filter(None, map(wrong_key, path.split(SEPARATOR))), None)
    if wrong is None and path.startswith((PARAMS, STATISTICS)):
        wrong = "its name begins as that of a collection"
    if wrong is None:
        # One rule instead of many cases: what would be read back as another tensor is not written.
        back = view_of(torch_name(path, collections=False), place.leaf, None if slot is None else info.shape)
        same = isinstance(back, View) and back.info == info
        wrong = None if same else f"a leaf {leaf!r} would be read back as another tensor"
    return place if wrong is None else wrong


def _leaf_of(slot: Slot, rank: int, architecture: Architecture) -> str:
    """What Flax calls the weight of a module of this kind."""
    family = architecture.family
    touched = family.tensors[slot.canonical[0]].touches
    if [dim.role for dim in touched] == ["gain"]:
        # Transformers' RMS norms are modules of its own, whose gain is called as in PyTorch; LayerNorm is Flax's.
        kinds = {norm.gain: norm.kind for norm in family.relations.norms}
        return SCALE if kinds.get(slot.canonical[0]) == "layer_norm" else WEIGHT
    if rank == 2 and touched[0].role == "in":
        return EMBEDDING
    return KERNEL if rank in _INVERSE else WEIGHT


def declared_shape(slot: Slot | None, shapes: Mapping[str, tuple[int | None, ...]]) -> tuple[int | None, ...] | None:
    """The shape of a tensor of a file by the family's declaration, before any of its steps; None where it has none."""
    if slot is None or slot.steps:
        return None
    shape = shapes[slot.canonical[0]]
    return shape if slot.expert is None else shape[1:]
