"""How many heads there are, and how wide: no weight's shape tells it, only the Reshape that cuts them apart does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ligo_onnx._model import Node, OnnxModel
from ligo_onnx._uses import scopes_of

_SAME = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape")
_MAX_DEPTH = 8


class Heads:
    """The Reshapes of a graph, by the module that they are in.

    Args:
        model: The graph.
        numbers: Values of the small tensors of whole numbers.
    """

    def __init__(self, model: OnnxModel, numbers: Mapping[str, tuple[int, ...]]) -> None:
        self._numbers = numbers
        self._makers = {name: node for node in model.nodes for name in node.outputs}
        self._cuts: dict[str, set[tuple[int | None, int | None]]] = {}
        for node in model.nodes:
            if node.op != "Reshape" or node.domain or len(node.inputs) != 2 or self._repeats(node):
                continue
            sizes = self._sizes(node.inputs[1], _MAX_DEPTH)
            if sizes is not None and len(sizes) in (4, 5):  # five: queries, keys and values are cut apart as well
                for scope in scopes_of(node):
                    self._cuts.setdefault(scope, set()).add((sizes[-2], sizes[-1]))

    def of(self, scope: str, width: int) -> set[tuple[int, int]]:
        """Every (heads, width of one) into which a module cuts activations of a width."""
        return {pair for cut in self._cuts.get(scope, ()) for pair in _filled(cut, width)}

    def _repeats(self, node: Node) -> bool:
        """Whether it joins copies of key-value heads: their sizes are those of texts, not of heads."""
        maker = self._makers.get(node.inputs[0])
        return maker is not None and maker.op == "Expand"

    def _sizes(self, name: str, depth: int) -> list[int | None] | None:
        """The entries of a list of sizes, None for those that are known only when the model runs."""
        known = self._numbers.get(name)
        if known is not None:
            return list(known)
        maker = self._makers.get(name)
        if maker is None or not depth:
            return None
        if maker.op in _SAME and maker.inputs:
            return self._sizes(maker.inputs[0], depth - 1)
        if maker.op != "Concat":
            return None
        parts = [self._sizes(part, depth - 1) or [None] for part in maker.inputs]
        return [size for part in parts for size in part]


def _filled(cut: tuple[int | None, int | None], width: int) -> Iterator[tuple[int, int]]:
    heads, side = cut
    if heads == -1 and side is not None and side > 0 and width % side == 0:
        yield width // side, side
    elif side == -1 and heads is not None and heads > 0 and width % heads == 0:
        yield heads, width // heads
    elif heads is not None and side is not None and heads > 0 and heads * side == width:
        yield heads, side
