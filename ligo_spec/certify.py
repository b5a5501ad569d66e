"""The certificate: is the grown model the small model's function, exactly? Read off the matrices, no data.

Six conditions (SPEC.md section 5). ``certify`` returns those that are broken, each with the place and the size of
the error; an empty list means lossless. Rows of a space that nothing reads are free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ligo_spec.family import LAYER, Attention, Dim, Family, Norm
from ligo_spec.maps import Map, equal, gram_error, is_identity
from ligo_spec.measures import (
    Rows,
    distance,
    distance_to_identity,
    distance_to_selection,
    isometry,
    largest,
    nonzero_rows,
    norm_rows,
    off_rotation,
)
from ligo_spec.operator import Growth, Operator, Term

TOLERANCE = 1e-7
"""Errors up to here are rounding: weights such as √(d/d') are not exact in float64, their squares are compared."""

VANISHING = frozenset(
    [
        "gelu",
        "gelu_new",
        "gelu_fast",
        "gelu_python",
        "gelu_pytorch_tanh",
        "gelu_10",
        "quick_gelu",
        "relu",
        "relu2",
        "leaky_relu",
        "silu",
        "swish",
        "tanh",
        "mish",
        "elu",
        "selu",
        "linear",
        "hardswish",
    ]
)
"""Activation functions with f(0) = 0, by their names in Hugging Face configs."""

Condition = Literal["form", "reading", "activation", "norm", "attention", "tie", "depth", "index"]


@dataclass(frozen=True)
class Broken:
    """A condition that an operator breaks.

    Args:
        condition: Which one.
        where: The space, norm gain or tensor.
        message: What is wrong and by the rule of which section.
        error: Size of the error: the largest difference seen between two matrix entries that should be equal.
    """

    condition: Condition
    where: str
    message: str
    error: float

    def __str__(self) -> str:
        return f"{self.condition}: {self.where}: {self.message} (off by {self.error:.3g})"


def certify(growth: Growth, operator: Operator) -> list[Broken]:
    """The conditions for losslessness that an operator breaks; empty when the grown model is the same function.

    Needs the family, the sizes and the maps; no weight is read.

    Args:
        growth: Small and large architecture.
        operator: One that fits them (``check_operator``).

    Returns:
        Broken conditions, by condition and place.
    """
    if len(operator.terms) != 1:
        return [
            Broken("form", "operator", f"a sum of {len(operator.terms)} terms is not one pair of maps a space", 1.0)
        ]
    checks = _Checks(growth, operator, operator.terms[0])
    return list(checks.broken())


@dataclass(frozen=True)
class _Checks:
    growth: Growth
    operator: Operator
    term: Term
    known: dict[tuple[int, bool], tuple[float, float]] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return self.growth.small.family

    def broken(self) -> Iterator[Broken]:
        yield from self._indices()
        yield from self._reading()
        yield from self._activations()
        for norm in self.family.relations.norms:
            yield from self._norm(norm)
        for attention in self.family.relations.attention:
            yield from self._attention(attention)
        yield from self._ties()
        yield from self._depth()

    def _kept(self, templates: Iterable[str]) -> list[str]:
        """Those tensors that a model of these flags has, or may have."""
        return [template for template in templates if self.growth.small.has(template)]

    def _isometry(self, map_: Map, centred: bool) -> tuple[float, float]:
        key = (id(map_), centred)
        if key not in self.known:
            self.known[key] = isometry(map_, centred=centred)
        return self.known[key]

    def _layers(self, *spaces: str) -> list[int | None]:
        """The layers at which the maps of ``spaces`` must be looked at: one where all are shared."""
        own = {len(self.term.maps[self.term.spaces[s].of(r)]) for s in spaces for r in ("out", "in", "gain")}
        return [None] if own == {1} else list(range(self.growth.large.layers))

    def _live(self, space: str, layer: int | None) -> Rows:
        """Rows of a space that something reads: all, where a norm reads it (through its mean or mean square)."""
        map_ = self.term.map(space, "in", layer)
        if any(norm.reads == space for norm in self.family.relations.norms):
            return np.ones(map_.shape[0], dtype=np.bool_)
        return nonzero_rows(map_)

    def _indices(self) -> Iterator[Broken]:
        for name, space in self.family.spaces.items():
            for role in ("out", "in") if space.fixed else ():
                map_ = self.term.map(name, role, None)
                if not is_identity(map_):
                    message = "its entries are indices (token ids, positions, labels); only the identity keeps them"
                    yield Broken("index", f"{name}.{role}", message, distance_to_identity(map_))

    def _reading(self) -> Iterator[Broken]:
        """Condition 1: what is written can be read back, ``A_sᵀ B_s = I``."""
        for name, space in self.family.spaces.items():
            if space.fixed or not self._kept(self.family.readers(name)):
                continue
            for layer in self._layers(name):
                reads, writes = self.term.map(name, "in", layer), self.term.map(name, "out", layer)
                error = gram_error(reads, writes, enough=TOLERANCE)
                if error > TOLERANCE:
                    message = "Aᵀ B is not the identity, so readers do not get back what was written"
                    yield Broken("reading", _place(name, layer), message, error)
                    break

    def _activations(self) -> Iterator[Broken]:
        """Condition 2: an elementwise function commutes with copies and, where f(0) = 0, with zero rows."""
        for activation in self.family.relations.activations:
            name, function = activation.space, self.growth.small.function(activation)
            for layer in self._layers(name):
                out, live = self.term.map(name, "out", layer), self._live(name, layer)
                error = distance_to_selection(out, live, function in VANISHING)
                if error > TOLERANCE:
                    message = f"rows of B that are read are no plain copies (or zero); {function} does not commute"
                    yield Broken("activation", _place(name, layer), message, error)
                    break

    def _norm(self, norm: Norm) -> Iterator[Broken]:
        """Condition 3: the norm of the large stream is the norm of the small one, mapped (SPEC 5.3)."""
        tensor = self.family.tensors[norm.gain]
        layers = self._layers(norm.writes) if LAYER in norm.gain else [None]
        gain_role: Dim = tensor.touches[0]
        reads = self.term.map(norm.reads, "out", None)
        centred = norm.kind == "layer_norm"
        spread, error = self._isometry(reads, centred)
        if error > TOLERANCE * max(1.0, spread):
            what = "variance" if centred else "mean square"
            yield Broken("norm", norm.gain, f"the {what} of {norm.reads} does not map to one factor of itself", error)
            return
        scale = self.operator.eps_scale.get(norm.eps, 1.0)
        if abs(scale - spread) > TOLERANCE * max(1.0, spread):
            message = f"{norm.eps} must be scaled by {spread:.6g}, it is by {scale:.6g}"
            yield Broken("norm", norm.gain, message, abs(scale - spread))
        for layer in layers:
            gain, writes = self.term.map(gain_role.space, "gain", layer), self.term.map(norm.writes, "out", layer)
            error = norm_rows(reads, gain, writes, self._live(norm.writes, layer), np.sqrt(spread), centred=centred)
            if error > TOLERANCE:
                message = f"gain and maps do not carry {norm.reads} over to {norm.writes}"
                yield Broken("norm", norm.gain, message, error)
                return

    def _attention(self, attention: Attention) -> Iterator[Broken]:
        """Condition 4: heads are selected whole and find their own key-value head (methods 4.4)."""
        for layer in self._layers(attention.query, attention.key, attention.value, attention.context):
            worst = max(_wrong_heads(self.growth, self.term, attention, layer), key=lambda pair: pair[1])
            if worst[1] > TOLERANCE:
                yield Broken("attention", _place(attention.query, layer), worst[0], worst[1])
                return

    def _ties(self) -> Iterator[Broken]:
        """Condition 5: tied tensors get the same grown value."""
        for first, *others in self.growth.small.ties:
            for other in others:
                pairs = zip(self.family.tensors[first].touches, self.family.tensors[other].touches, strict=True)
                for ours, theirs in pairs:
                    a, b = self.term.map(*ours, None), self.term.map(*theirs, None)
                    if not equal(a, b):
                        message = f"tied to {first}, but {'.'.join(theirs)} and {'.'.join(ours)} differ"
                        yield Broken("tie", other, message, distance(a, b))

    def _depth(self) -> Iterator[Broken]:
        """Condition 6: the layers that are not silent are the small model's, each once and in order."""
        order: list[int] = []
        for layer in range(self.growth.large.layers):
            if self._silent(layer):
                continue
            rows = {name: self.term.mix(name)[layer] for name in self._kept(self.family.tensors) if LAYER in name}
            source = int(np.argmax(next(iter(rows.values()))))
            wanted = np.eye(self.growth.small.layers)[source]
            error, name = max((float(np.abs(row - wanted).max()), name) for name, row in rows.items())
            if error > TOLERANCE:
                yield Broken(
                    "depth", f"layer {layer}", f"{name} is a mixture, neither one small layer nor silent", error
                )
                return
            order.append(source)
        if order != list(range(self.growth.small.layers)):
            message = f"those that are not silent copy {_short(order)}, not each small layer once and in order"
            yield Broken("depth", "layers", message, 1.0)

    def _silent(self, layer: int) -> bool:
        """Whether a layer adds nothing: all that it writes to the residual stream is zero, and no norm stands in it."""
        residual = self.family.residual
        if any(norm.writes == residual and LAYER in norm.gain for norm in self.family.relations.norms):
            return False
        written = [name for name in self._kept(self.family.writers(residual)) if LAYER in name]
        return all(not self.term.mix(name)[layer].any() for name in written)


def _wrong_heads(growth: Growth, term: Term, attention: Attention, layer: int | None) -> Iterable[tuple[str, float]]:
    """Problems of every query head that is read, with the size of each; ``("", 0)`` where there is none."""
    spaces = growth.small.family.spaces
    heads_axis, dim_axis = spaces[attention.query].axes
    groups_axis = spaces[attention.key].axes[0]
    small, large = growth.small.sizes, growth.large.sizes
    per_group = {"small": small[heads_axis] // small[groups_axis], "large": large[heads_axis] // large[groups_axis]}
    d, d_large = small[dim_axis], large[dim_axis]
    maps = {name: term.map(getattr(attention, name), "out", layer) for name in ("query", "key", "value", "context")}
    read = term.map(attention.context, "in", layer)
    yield "", 0.0
    for head in range(large[heads_axis]):
        if not np.any(read.rows(head * d_large, (head + 1) * d_large)):
            continue
        group = head // per_group["large"]
        blocks = {
            name: _head_blocks(map_, group if name in ("key", "value") else head, d, d_large)
            for name, map_ in maps.items()
        }
        sizes = np.abs(blocks["context"]).max(axis=(0, 2))
        source = int(sizes.argmax())
        wanted = {"query": source, "context": source}
        wanted |= dict.fromkeys(("key", "value"), source // per_group["small"])
        for name, block in blocks.items():
            others = np.delete(block, wanted[name], axis=1)
            yield f"{name} head {head} is no whole head of the small model", float(np.abs(others).max(initial=0))
        own = {name: block[:, wanted[name], :] for name, block in blocks.items()}
        yield f"head {head}: value and context are carried over differently", largest(own["value"] - own["context"])
        score = own["query"].T @ own["key"] - np.sqrt(d_large / d) * np.eye(d)
        yield f"head {head}: query and key do not keep the scores (softmax scale √(d'/d))", largest(score)
        if attention.rotary == "half":
            for name in ("query", "key"):
                yield f"{name} head {head} does not commute with rotary positions", off_rotation(own[name])


def _head_blocks(map_: Map, head: int, d: int, d_large: int) -> npt.NDArray[np.float64]:
    """One large head's rows, split by small head: ``(d_large, heads_small, d)``."""
    return map_.rows(head * d_large, (head + 1) * d_large).reshape(d_large, -1, d)


def _place(space: str, layer: int | None) -> str:
    return space if layer is None else f"{space} of layer {layer}"


def _short(order: list[int]) -> str:
    text = ", ".join(map(str, order[:12]))
    return text + (", ..." if len(order) > 12 else "")
