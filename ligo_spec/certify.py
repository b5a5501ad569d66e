"""The certificate: is the grown model the small model's function, exactly? Read off the matrices, no data.

Seven conditions (SPEC.md section 5). ``certify`` returns those that are broken, each with the place and the size of
the error; an empty list means lossless. Rows of a space that nothing reads are free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ligo_spec.certify_attention import rows_in_use, rows_read, wrong_heads
from ligo_spec.certify_norms import NormPart, heads, whole
from ligo_spec.certify_routing import wrong_routing
from ligo_spec.family import Dim, Family, Role
from ligo_spec.layer_kinds import sources
from ligo_spec.maps import Map, equal, gram_error, scaled
from ligo_spec.measures import (
    Rows,
    distance,
    distance_of_old_rows,
    distance_to_selection,
    isometry,
    norm_rows,
    sum_error,
)
from ligo_spec.operator import Growth, Mix, Operator, Term
from ligo_spec.relations import Attention, Multiplier, Norm, Routing, Scale
from ligo_spec.silence import adds_nothing, silent, standing

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

Condition = Literal["form", "reading", "activation", "norm", "attention", "routing", "tie", "depth", "index"]


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


def certify(growth: Growth, operator: Operator, templates: Collection[str] | None = None) -> list[Broken]:
    """The conditions for losslessness that an operator breaks; empty when the grown model is the same function.

    Needs the family, the sizes and the maps; no weight is read.

    Args:
        growth: Small and large architecture.
        operator: One that fits them (``check_operator``).
        templates: Canonical templates of the tensors that the model has; all that its family declares where it is left
            out. What a missing head or pooler would need is not asked for.

    Returns:
        Broken conditions, by condition and place.
    """
    main = {stack: sources(operator.main, growth.small.family, stack) for stack in growth.small.family.stacks}
    if templates is not None:
        growth = growth.only(templates)
    checks = _Checks(growth, operator, operator.main, main)
    return list(checks.broken())


@dataclass(frozen=True)
class _Checks:
    growth: Growth
    operator: Operator
    term: Term
    main: dict[str, list[int]]
    """By stack, the small layer that each large one comes from."""
    known: dict[tuple[int, bool], tuple[Map, tuple[float, float]]] = field(default_factory=dict)
    """By a map's identity; the map is kept, so that no other one gets its number."""

    @property
    def family(self) -> Family:
        return self.growth.small.family

    def broken(self) -> Iterator[Broken]:
        yield from self._sums()
        yield from self._indices()
        yield from self._reading()
        yield from self._past()
        yield from self._activations()
        for norm in self.family.relations.norms:
            yield from self._norm(norm)
        for scale in self.family.relations.scales:
            yield from self._scale(scale)
        for multiplier in self.family.relations.multipliers:
            yield from self._multiplier(multiplier)
        for attention in self.family.relations.attention:
            yield from self._attention(attention)
        for routing in self.family.relations.routing:
            yield from self._routing(routing)
        yield from self._ties()
        yield from self._depth()

    def _isometry(self, map_: Map, centred: bool) -> tuple[float, float]:
        key = (id(map_), centred)
        if key not in self.known:
            self.known[key] = map_, isometry(map_, centred=centred)
        return self.known[key][1]

    def _has(self, template: str, layer: int) -> bool:
        """Whether a layer of the large model has a tensor: that which it comes from has it."""
        stack = self.family.stack_of(template)
        return stack is None or self.family.in_layer(template, self.main[stack][layer])

    def _layers(self, *spaces: str) -> list[int | None]:
        """The layers at which the maps of ``spaces`` must be looked at: one where all are shared, else those in use."""
        stated = [(term, name) for term in self.operator.terms for name in spaces if name in term.spaces]
        own = {len(term.maps[term.spaces[name].of(role)]) for term, name in stated for role in ("out", "in", "gain")}
        if own == {1}:
            return [None]
        touching = [n for n, tensor in self.family.tensors.items() if any(d.space in spaces for d in tensor.touches)]
        layered = [name for name in touching if self.family.stack_of(name) is not None]
        return [i for i in range(max(own)) if not layered or any(self._has(name, i) for name in layered)]

    def _live(self, space: str, layer: int | None) -> Rows:
        """Rows of a space that something reads: all, where a norm reads it (through its mean or mean square)."""
        relations = self.family.relations
        if any(norm.reads == space for norm in relations.norms):
            return np.ones(self.term.map(space, "out", layer).shape[0], dtype=np.bool_)
        for attention in relations.attention:
            if space in (attention.query, attention.key):
                return rows_in_use(self.growth, self.operator, attention, space, layer)
        followers = [link.writes for link in relations.links if link.reads == space]
        live = rows_read(self.family, self.operator, space, layer)
        for follower in followers:
            live = live | self._live(follower, layer)
        return live

    def _sums(self) -> Iterator[Broken]:
        """Terms together write what the first one writes: ``Σ_t B_t = B_1``, and ``Σ_t G_t = G_1``."""
        for name, tensor in self.family.tensors.items():
            terms = self.operator.terms_of(name)
            written = [dim for dim in tensor.touches if dim.role != "in"]
            if terms == (self.term,) or not written:
                continue
            for layer in self._layers(*(dim.space for dim in written)):
                wrong = self._sum(name, terms, written, layer)
                if wrong is not None:
                    yield wrong
                    break

    def _sum(self, name: str, terms: Sequence[Term], written: Sequence[Dim], layer: int | None) -> Broken | None:
        """What is wrong with a sum: of two spaces that it writes (experts, units), all terms agree on one."""
        first = terms[0]
        differ = [dim for dim in written if not all(equal(t.map(*dim, layer), first.map(*dim, layer)) for t in terms)]
        if len(differ) > 1:
            return Broken("form", name, f"{len(terms)} terms write two spaces, which is no map of each", 1.0)
        summed = differ[0] if differ else written[-1]
        for dim in written:
            parts = [term.map(*dim, layer) for term in (terms if dim == summed else terms[:1])]
            error = sum_error(parts, self.term.map(*dim, layer))
            if error > TOLERANCE:
                message = f"its terms do not add up to the first term's map of {dim.space}.{dim.role}"
                return Broken("form", name, message, error)
        return None

    def _indices(self) -> Iterator[Broken]:
        """Old entries stay where they are; new ones may be read, but none may be written: it would be predicted."""
        for name, space in self.family.spaces.items():
            used: list[tuple[Role, list[str]]] = [
                ("out", self.family.writers(name)),
                ("in", self.family.readers(name)),
            ]
            several = [(role, term) for role, tensors in used for term in self._terms_for(tensors) if space.fixed]
            for role, term in several:
                map_ = term.map(name, role, None)
                large, small = map_.shape
                error = distance_of_old_rows(map_)
                if error > TOLERANCE:
                    message = "its entries are indices (token ids, positions, labels); old ones must stay as they are"
                    yield Broken("index", f"{name}.{role}", message, error)
                elif role == "out" and large > small:
                    message = f"{large - small} new entries take part in what is predicted"
                    yield Broken("index", f"{name}.{role}", message, (large - small) / large)

    def _reading(self) -> Iterator[Broken]:
        """Condition 1: what is written can be read back, ``A_sᵀ B_s = I``."""
        for name, space in self.family.spaces.items():
            terms = () if space.fixed else self._terms_for(self.family.readers(name))
            for term, layer in ((term, layer) for term in terms for layer in self._layers(name)):
                reads, writes = term.map(name, "in", layer), self.term.map(name, "out", layer)
                error = gram_error(reads, writes, enough=TOLERANCE)
                if error > TOLERANCE:
                    message = "Aᵀ B is not the identity, so readers do not get back what was written"
                    yield Broken("reading", _place(name, layer), message, error)
                    break

    def _terms_for(self, tensors: Collection[str]) -> list[Term]:
        """The terms that are for some of these tensors."""
        return [term for term in self.operator.terms if any(map(term.serves, tensors))]

    def _past(self) -> Iterator[Broken]:
        """Condition 1 where a layer lacks a norm: its readers get what it would have read."""
        relations = self.family.relations
        links: tuple[Norm | Scale, ...] = (*relations.norms, *relations.scales)
        for link in links:
            stack = self.family.stack_of(link.gain)
            for layer in () if stack is None else range(self.growth.large.depth(stack)):
                if link.reads == link.writes or self._has(link.gain, layer):
                    continue
                writes = self.term.map(link.reads, "out", layer)
                terms = self._terms_for(self.family.readers(link.writes)) or [self.term]
                reads = [term.map(link.writes, "in", layer) for term in terms]
                error = max(gram_error(map_, writes, enough=TOLERANCE) for map_ in reads)
                if error > TOLERANCE:
                    message = f"layer {layer} has none, and readers of {link.writes} do not get back {link.reads}"
                    yield Broken("reading", link.gain, message, error)
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
        space = self.family.tensors[norm.gain].touches[0].space
        centred = norm.kind == "layer_norm"
        told = False
        for layer in self._layers(norm.reads, norm.writes, space):
            for part in self._parts(norm, space, layer):
                spread, error = self._isometry(part.reads, centred)
                if max(part.stray, error) > TOLERANCE * max(1.0, spread):
                    yield Broken("norm", norm.gain, part.wrong, max(part.stray, error))
                    return
                if not told and (wrong := self._wrong_eps(norm, spread)) is not None:
                    told = True
                    yield wrong
                error = norm_rows(part.reads, part.gain, part.writes, part.live, np.sqrt(spread), centred=centred)
                if error > TOLERANCE:
                    yield self._not_carried(norm, error)
                    return

    def _parts(self, norm: Norm, space: str, layer: int | None) -> Iterator[NormPart]:
        live = self._live(norm.writes, layer)
        if norm.per == "head":
            yield from heads(self.growth, self.term, norm, space, layer, live)
        else:
            yield whole(self.term, norm, space, layer, live)

    def _wrong_eps(self, norm: Norm, spread: float) -> Broken | None:
        scale = 1.0 if norm.eps is None else self.operator.eps_scale.get(norm.eps, 1.0)
        if abs(scale - spread) <= TOLERANCE * max(1.0, spread):
            return None
        message = f"{norm.eps} must be scaled by {spread:.6g}, it is by {scale:.6g}"
        if norm.eps is None:
            message = f"its epsilon must be scaled by {spread:.6g}, but no key of config.json holds it"
        return Broken("norm", norm.gain, message, abs(scale - spread))

    def _not_carried(self, relation: Norm | Scale, error: float) -> Broken:
        message = f"gain and maps do not carry {relation.reads} over to {relation.writes}"
        return Broken("norm", relation.gain, message, error)

    def _scale(self, scale: Scale) -> Iterator[Broken]:
        """A learned factor a channel: as a norm that does not divide (SPEC 5.3)."""
        space = self.family.tensors[scale.gain].touches[0].space
        for layer in self._layers(scale.reads, scale.writes, space):
            reads, writes = (self.term.map(name, "out", layer) for name in (scale.reads, scale.writes))
            gain = self.term.map(space, "gain", layer)
            error = norm_rows(reads, gain, writes, self._live(scale.writes, layer), 1.0, centred=False)
            if error > TOLERANCE:
                yield self._not_carried(scale, error)
                return

    def _multiplier(self, multiplier: Multiplier) -> Iterator[Broken]:
        """A factor that grows with a size: what it multiplies must be smaller (SPEC 5.3)."""
        small, large = (model.sizes[multiplier.root_of] for model in (self.growth.small, self.growth.large))
        reads, writes = (self.term.map(name, "out", None) for name in (multiplier.reads, multiplier.writes))
        root = np.sqrt(small / large if multiplier.inverse else large / small)
        error = distance(scaled(reads, float(root)), writes)
        if error > TOLERANCE:
            sign = "divided by" if multiplier.inverse else "times"
            message = f"{sign} √{multiplier.root_of} is not what {multiplier.writes} needs, √(d'/d) more or less"
            yield Broken("norm", multiplier.reads, message, error)

    def _attention(self, attention: Attention) -> Iterator[Broken]:
        """Condition 4: heads are selected whole and find their own key-value head (methods 4.4)."""
        for layer in self._layers(*sorted(attention.names)):
            worst = max(wrong_heads(self.growth, self.operator, attention, layer), key=lambda pair: pair[1])
            if worst[1] > TOLERANCE:
                yield Broken("attention", _place(attention.query, layer), worst[0], worst[1])
                return

    def _routing(self, routing: Routing) -> Iterator[Broken]:
        """Condition 7: every expert is copied equally often, and as many more are chosen (SPEC 5.8)."""
        for layer in self._layers(routing.space):
            for text, error in wrong_routing(self.growth, self.term, routing, layer):
                if error > TOLERANCE:
                    yield Broken("routing", _place(routing.space, layer), text, error)
                    return

    def _ties(self) -> Iterator[Broken]:
        """Condition 5: tied tensors get the same grown value."""
        for first, *others in self.growth.small.ties:
            for other in others:
                both = self.operator.terms_of(first), self.operator.terms_of(other)
                if len(both[0]) != len(both[1]):
                    yield Broken("tie", other, f"tied to {first}, but made by another number of terms", 1.0)
                    continue
                for mine, yours in zip(*both, strict=True):
                    yield from self._tie(mine, first, yours, other)

    def _tie(self, mine: Term, first: str, yours: Term, other: str) -> Iterator[Broken]:
        tensors = self.family.tensors
        for ours, theirs in zip(tensors[first].touches, tensors[other].touches, strict=True):
            a, b = mine.map(*ours, None), yours.map(*theirs, None)
            if not equal(a, b):
                message = f"tied to {first}, but {'.'.join(theirs)} and {'.'.join(ours)} differ"
                yield Broken("tie", other, message, distance(a, b))

    def _depth(self) -> Iterator[Broken]:
        """Condition 6: the layers that are not silent are the small model's, each once and in order."""
        for stack in self.family.stacks:
            yield from self._depth_of(stack)

    def _depth_of(self, stack: str) -> Iterator[Broken]:
        order: list[int] = []
        tensors = [name for name in self.family.tensors if self.family.stack_of(name) == stack]
        for layer in range(self.growth.large.depth(stack)) if tensors else ():
            place = stack, layer, self.main[stack][layer]
            if silent(self.operator, self.family, *place):
                continue
            rows = [(name, row) for name in tensors if self._has(name, layer) for row in self._rows(name, layer)]
            source = int(np.argmax(rows[0][1]))
            wanted = np.eye(self.growth.small.depth(stack))[source]
            error, name = max((float(np.abs(row - wanted).max()), name) for name, row in rows)
            if error > TOLERANCE:
                message = f"{name} is a mixture, neither one small layer nor silent"
                if adds_nothing(self.operator, self.family, *place):
                    message = f"adds nothing, but {standing(self.family, stack)[0]} stands in the stream and changes it"
                yield Broken("depth", _layer_of(stack, layer), message, error)
                return
            order.append(source)
        if tensors and order != list(range(self.growth.small.depth(stack))):
            message = f"those that are not silent copy {_short(order)}, not each small layer once and in order"
            yield Broken("depth", stack, message, 1.0)

    def _rows(self, template: str, layer: int) -> list[Mix]:
        """The depth rows of a tensor in one layer, one a term."""
        return [term.mix(template)[layer] for term in self.operator.terms_of(template)]


def _layer_of(stack: str, layer: int) -> str:
    return f"layer {layer}" if stack == "layers" else f"layer {layer} of {stack}"


def _place(space: str, layer: int | None) -> str:
    return space if layer is None else f"{space} of layer {layer}"


def _short(order: list[int]) -> str:
    text = ", ".join(map(str, order[:12]))
    return text + (", ..." if len(order) > 12 else "")
