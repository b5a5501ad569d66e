"""From the tree of a msgpack file to its arrays by path; arrays that were cut for the format's sake are one again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_flax._leaf import SEPARATOR, Leaf, size_of
from ligo_flax._walk import Node, Piece, walk
from ligo_spec.checkpoint import DTYPES
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import InputFile

CHUNKED = "__msgpack_chunked_array__"
"""The key that tells an array that was cut from a branch of the tree."""


@dataclass(frozen=True)
class Spans:
    """An array of a msgpack file.

    Args:
        dtype: As safetensors spells it.
        shape: Of the whole array.
        spans: Offset and length of every piece of its values, in order.
    """

    dtype: str
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def read(self, file: InputFile, /) -> npt.NDArray[Any]:
        """The values, C-contiguous.

        Raises:
            InputError: The file ends early.
        """
        data = np.empty(sum(length for _, length in self.spans), dtype=np.uint8)
        done = 0
        for offset, length in self.spans:
            file.read_into(offset, data[done : done + length].data)
            done += length
        dtype = DTYPES[self.dtype]
        words = data.view(f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}", copy=False)
        return words.view(dtype).reshape(self.shape)


def read_tree(file: InputFile) -> dict[str, Leaf]:
    """The arrays of an open msgpack file, by path.

    Raises:
        InputError: The file is no tree of arrays.
    """
    problems: list[Problem] = []
    found = dict(_leaves(walk(file), "", f"{printable(file.path)}", problems))
    if problems:
        raise InputError(problems)
    return found


def _leaves(tree: dict[str, Node], path: str, where: str, problems: list[Problem]) -> Iterator[tuple[str, Leaf]]:
    for key, node in tree.items():
        inner = path + SEPARATOR + key if path else key
        if isinstance(node, Piece):
            yield inner, Spans(node.dtype, node.shape, ((node.offset, node.nbytes),))
        elif not isinstance(node, dict):
            message = f"is the number {node}, not an array; a tree of parameters holds arrays only"
            problems.append(Problem(f"{where}: {printable(inner)}", message))
        elif CHUNKED in node:
            whole = _joined(node)
            if isinstance(whole, Spans):
                yield inner, whole
            else:
                problems.append(Problem(f"{where}: {printable(inner)}", whole))
        else:
            yield from _leaves(node, inner, where, problems)


def _joined(node: dict[str, Node]) -> Spans | str:
    """The array whose pieces a branch lists, or what is wrong with the list."""
    sides, parts = _listed(node.get("shape")), _listed(node.get("chunks"))
    if node.keys() != {CHUNKED, "shape", "chunks"} or node[CHUNKED] is not True or sides is None or not parts:
        return "a chunked array has a shape and chunks, both numbered from 0, and nothing else"
    shape = tuple(side for side in sides if type(side) is int)
    pieces = [part for part in parts if isinstance(part, Piece) and len(part.shape) == 1]
    if len(shape) != len(sides) or len(pieces) != len(parts) or len({piece.dtype for piece in pieces}) != 1:
        return "a chunked array has whole numbers for its shape, and chunks of one dimension and one dtype"
    dtype, held = pieces[0].dtype, sum(piece.shape[0] for piece in pieces)
    if size_of(dtype, shape) is None or prod(shape) != held:
        return f"shape {printable(shape)} does not have the {held} values that its chunks hold"
    return Spans(dtype, shape, tuple((piece.offset, piece.nbytes) for piece in pieces))


def _listed(node: Node | None) -> list[Node] | None:
    """The entries of a map with the keys 0, 1, ..., in that order."""
    if not isinstance(node, dict) or node.keys() != {str(number) for number in range(len(node))}:
        return None
    return [node[str(number)] for number in range(len(node))]
