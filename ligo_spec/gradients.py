"""How the gradient of a lossless large model follows from that of the small one, entry by entry (SPEC 7.5).

With ``W' = B W Aᵀ``, activations are ``x' = F x`` and gradients of activations ``δ' = E δ``, so the gradient of a
tensor is ``G' = E_out G F_inᵀ``. Where tensors read a space linearly, ``F = B`` and ``E = A``. Norms, attention and
elementwise functions are not linear: there ``F`` and ``E`` follow from the relations of the family, row by row, and
some rows of what is new have no counterpart at all. Every row therefore says whether it is exact.

Only selections are looked into; of other maps, nothing that needs it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.certify import VANISHING
from ligo_spec.gradients_attention import attention_rows
from ligo_spec.maps import Identity, Map, Select, is_identity
from ligo_spec.operator import Growth, Operator
from ligo_spec.relations import Attention, Link, Multiplier, Norm, Scale
from ligo_spec.selected_rows import SelectedRows, agree, close, selected

Rows = npt.NDArray[np.bool_]
Place = tuple[str, int | None]
"""A space, and the layer whose own it is (None where all layers share it)."""


@dataclass(frozen=True, eq=False)
class Carried:
    """A map of activations or of their gradients, ``(large, small)``, and which of its rows are exact, ``(large,)``."""

    map: Map
    exact: Rows


class GradientMaps:
    """``F``, ``E`` and the map of gains for every space of a lossless operator.

    Args:
        growth: Small and large architecture, with just the tensors that the model has.
        operator: All conditions of the certificate but those on depth hold.
        sources: By stack, the small layer that each large one comes from.
    """

    def __init__(self, growth: Growth, operator: Operator, sources: Mapping[str, Sequence[int]]) -> None:
        self.growth, self.term, self.family = growth, operator.main, growth.small.family
        self._sources = sources
        self._summed = {
            dim.space
            for name, tensor in self.family.tensors.items()
            for dim in tensor.touches
            if dim.role == "in" and operator.terms_of(name) != (operator.main,)
        }
        self._attention: dict[tuple[int, int | None], dict[str, SelectedRows] | None] = {}
        places = [(name, layer) for name in self.family.spaces for layer in self._layers(name)]
        sizes = {place: self.growth.large.width(place[0]) or 1 for place in places}
        self._backward = {place: np.ones(size, dtype=np.bool_) for place, size in sizes.items()}
        self._forward = {place: np.ones(size, dtype=np.bool_) for place, size in sizes.items()}
        _settle(self._forward, self._forward_rows)
        _settle(self._backward, self._backward_rows)

    def carried(self, space: str, layer: int | None) -> Carried:
        """``F``: what tensors that read the space find there."""
        return Carried(self._map(space, "in", layer), self._forward[self._place(space, layer)])

    def pulled(self, space: str, layer: int | None) -> Carried:
        """``E``: the gradient of what tensors write there."""
        return Carried(self._base(space, layer), self._backward[self._place(space, layer)])

    def gain(self, template: str, layer: int | None) -> Carried | None:
        """The map of a gain's gradient, the sum over tokens of ``δ' ∘ x̂'``; None where no relation has the gain."""
        links: tuple[Norm | Scale, ...] = (*self.family.relations.norms, *self.family.relations.scales)
        for link in links:
            if link.gain == template:
                found = self._gain_rows(link, layer)
                return None if found is None else Carried(found.map, found.exact)
        return None

    # --- places -------------------------------------------------------------------------------------------------------

    def _layers(self, space: str) -> list[int | None]:
        per = self.family.spaces[space].per
        return [None] if per == "model" else list(range(self.growth.large.depth(per)))

    def _place(self, space: str, layer: int | None) -> Place:
        return space, None if self.family.spaces[space].per == "model" else layer

    def _map(self, space: str, role: Any, layer: int | None) -> Map:
        """``F`` (role ``in``) or a map of the operator; the small model has no input at new indices."""
        if self.family.spaces[space].fixed:
            return padded(self.growth, space)
        return self.term.map(space, "out" if role == "in" else role, layer)

    def _base(self, space: str, layer: int | None) -> Map:
        """``E``: ``A`` where a tensor reads the space, else what the first relation that reads it makes of it."""
        if self.family.spaces[space].fixed:
            return padded(self.growth, space)
        if not self.family.readers(space):
            for claim in self._claims(self._place(space, layer)):
                if claim is not None:
                    return claim.map
        return self.term.map(space, "in", layer)

    def _at(self, place: Place, stack: str | None) -> list[int | None]:
        """The layers at which a relation of a stack meets a space."""
        if place[1] is not None or stack is None:
            return [place[1]]
        return list(range(self.growth.large.depth(stack)))

    def _stack(self, *spaces: str) -> str | None:
        found = (self.family.spaces[space].per for space in spaces)
        return next((per for per in found if per != "model"), None)

    def _links(self, space: str, end: str) -> Iterator[tuple[Link, str | None]]:
        """The relations that read or write a space, with the stack that they are in."""
        for link in self.family.relations.links:
            if getattr(link, end) == space:
                gain = getattr(link, "gain", None)
                yield link, self._stack(link.reads, link.writes) if gain is None else self.family.stack_of(gain)

    # --- gradients, from readers to writers ---------------------------------------------------------------------------

    def _backward_rows(self, place: Place) -> Rows:
        """Rows of ``E`` that all that reads the space agrees on."""
        space, layer = place
        exact = np.ones(self._backward[place].shape, dtype=np.bool_)
        if self.family.spaces[space].fixed:
            return exact
        if space in self._summed or self._is_rerouted(space, layer):
            return ~exact
        base = selected(self._base(space, layer))
        for claim in self._claims(place):
            exact &= np.False_ if claim is None or base is None else claim.exact & agree(base, claim)
        for activation in self.family.relations.activations:
            if activation.space == space:  # δ of what goes in is f'(x') ∘ δ of what comes out
                writes = selected(self.term.map(space, "out", layer))
                exact &= np.False_ if writes is None or base is None else _through_function(base, writes)
        return exact

    def _claims(self, place: Place) -> Iterator[SelectedRows | None]:
        """What every relation that reads a space says of its ``E``; None where it cannot be told."""
        space = place[0]
        for link, stack in self._links(space, "reads"):
            for layer in self._at(place, stack):
                yield self._claim(link, layer)
        for attention in self.family.relations.attention:
            if space in (attention.query, attention.key, attention.value, attention.scores, attention.weights):
                stack = self._stack(attention.query, attention.context)
                for layer in self._at(place, stack):
                    found = self._attended(attention, layer)
                    yield None if found is None else found[space]

    def _claim(self, link: Link, layer: int | None) -> SelectedRows | None:
        after = selected(self._base(link.writes, layer))
        if after is None:
            return None
        after = replace(after, exact=self._backward[self._place(link.writes, layer)])
        if self._is_missing(link, layer):
            return after
        if isinstance(link, Multiplier):
            return replace(after, weight=after.weight / self._root(link))
        parts = self._parts(link, layer)
        if parts is None:
            return None
        return pulled_through(replace(parts, after=after))

    def _is_rerouted(self, space: str, layer: int | None) -> bool:
        """Whether there are other experts than before: what each of them gets depends on the tokens."""
        routed = any(routing.space == space for routing in self.family.relations.routing)
        return routed and not is_identity(self.term.map(space, "out", layer))

    def _is_missing(self, link: Link, layer: int | None) -> bool:
        """Whether a layer lacks a norm or scale, so that what it would read is read directly."""
        if isinstance(link, Norm | Scale) and layer is not None:
            return not self.family.in_layer(link.gain, self._sources[str(self.family.stack_of(link.gain))][layer])
        return False

    def _root(self, link: Multiplier) -> float:
        """``√(n/n')``, by which the map before the product differs from that after it."""
        factor = float(np.sqrt(self.growth.small.sizes[link.root_of] / self.growth.large.sizes[link.root_of]))
        return 1 / factor if link.inverse else factor

    def _parts(self, link: Link, layer: int | None) -> Product | None:
        """A norm or a scale as a product with gains; None where one of its maps is no selection."""
        assert isinstance(link, Norm | Scale)
        space = self.family.tensors[link.gain].touches[0].space
        before = selected(self.term.map(link.reads, "out", layer))
        gains = selected(self.term.map(space, "gain", layer))
        after, wrote = selected(self._base(link.writes, layer)), selected(self.term.map(link.writes, "out", layer))
        if before is None or gains is None or after is None or wrote is None:
            return None
        before = replace(before, exact=self._forward[self._place(link.reads, layer)])
        after = replace(after, exact=self._backward[self._place(link.writes, layer)])
        heads = (1, 1)
        if isinstance(link, Norm) and link.per == "head":
            axis = self.family.spaces[link.reads].axes[0]
            heads = self.growth.small.sizes[axis], self.growth.large.sizes[axis]
        return Product(before, gains, after, wrote, getattr(link, "kind", "scale"), heads)

    def _attended(self, attention: Attention, layer: int | None) -> dict[str, SelectedRows] | None:
        key = id(attention), layer
        if key not in self._attention:
            self._attention[key] = attention_rows(self.growth, self.term, attention, layer)
        return self._attention[key]

    def _gain_rows(self, link: Norm | Scale, layer: int | None) -> SelectedRows | None:
        parts = self._parts(link, layer)
        return None if parts is None else gain_rows(parts)

    # --- activations, from writers to readers -------------------------------------------------------------------------

    def _forward_rows(self, place: Place) -> Rows:
        """Rows of ``F`` at which all that writes the space gives what ``B`` says."""
        space, layer = place
        exact = np.ones(self._forward[place].shape, dtype=np.bool_)
        if self.family.spaces[space].fixed:
            return exact
        for link, stack in self._links(space, "writes"):
            for i in self._at(place, stack):
                exact &= self._written(link, i)
        for attention in self.family.relations.attention:
            if space == attention.context:
                for i in self._at(place, self._stack(attention.query, attention.context)):
                    found = self._attended(attention, i)
                    exact &= np.False_ if found is None else found[space].exact
        for activation in self.family.relations.activations:
            if activation.space == space:
                writes = selected(self.term.map(space, "out", layer))
                vanishes = self.growth.small.function(activation) in VANISHING
                exact &= np.False_ if writes is None else _copies(writes, zero_allowed=vanishes)
        return exact

    def _written(self, link: Link, layer: int | None) -> Rows | np.bool_:
        before = selected(self.term.map(link.reads, "out", layer))
        wrote = selected(self.term.map(link.writes, "out", layer))
        if before is None or wrote is None:
            return np.False_
        known = self._forward[self._place(link.reads, layer)]
        if self._is_missing(link, layer):
            return agree(before, wrote) & known
        if isinstance(link, Multiplier):
            return agree(replace(before, weight=before.weight / self._root(link)), wrote) & known
        parts = self._parts(link, layer)
        return np.False_ if parts is None else written_through(parts)


@dataclass(frozen=True, eq=False)
class Product:
    """A norm or a scale, ``y = g ∘ x̂``, by the maps of what it reads, multiplies by and writes.

    Args:
        before: ``B`` of what goes in; exact where ``F`` is.
        gains: ``G``.
        after: ``E`` of what comes out; exact where that is.
        wrote: ``B`` of what comes out.
        kind: ``scale`` has ``x̂ = x``.
        heads: How many pieces are normed by themselves, small and large.
    """

    before: SelectedRows
    gains: SelectedRows
    after: SelectedRows
    wrote: SelectedRows
    kind: str
    heads: tuple[int, int]

    def by_head(self, rows: SelectedRows) -> tuple[Any, Any, Any, Any]:
        """Small piece, entry in it, weight and exactness of every row, ``(heads', rows)``."""
        small = rows.small // self.heads[0]
        shape = self.heads[1], -1
        index, weight, exact = (part.reshape(shape) for part in (rows.index, rows.weight, rows.exact))
        return index // small, index % small, weight, exact

    def gain_by_head(self) -> tuple[Any, Any]:
        """Entry and weight of every gain, ``(heads', rows)``: all pieces have the same."""
        shape = self.heads[1], self.before.index.size // self.heads[1]
        index = self.gains.index if self.gains.index.size == self.before.index.size else None
        if index is None:
            return np.broadcast_to(self.gains.index, shape), np.broadcast_to(self.gains.weight, shape)
        return self.gains.index.reshape(shape), self.gains.weight.reshape(shape)

    def spread(self) -> tuple[Any, Any, Any]:
        """``ν`` with ``BᵀB = ν I`` and ``κ``, ``(heads', 1)``, and whether the piece is such an isometry.

        A norm that centres is carried over entry by entry only where its rows and columns have equal sums.
        """
        source, inner, weight, _ = self.by_head(self.before)
        pieces, rows = weight.shape
        if self.kind == "scale":
            one = np.ones((pieces, 1))
            return one, one, one.astype(np.bool_)
        small = self.before.small // self.heads[0]
        squares, sums = np.zeros((pieces, small)), np.zeros((pieces, small))
        lines = np.repeat(np.arange(pieces), rows)
        np.add.at(squares, (lines, inner.ravel()), (weight**2).ravel())
        np.add.at(sums, (lines, inner.ravel()), weight.ravel())
        nu = squares.mean(axis=1, keepdims=True)
        live = weight != 0
        home = np.take_along_axis(source, np.abs(weight).argmax(axis=1)[:, None], axis=1)
        good = close(squares, nu).all(axis=1, keepdims=True) & (nu > 0)
        good &= (~live | (source == home)).all(axis=1, keepdims=True)
        if self.kind == "layer_norm":
            good &= close(weight, weight[:, :1]).all(axis=1, keepdims=True)
            good &= close(sums, sums[:, :1]).all(axis=1, keepdims=True)
        return np.where(good, nu, 1.0), np.sqrt(np.where(good, nu, 1.0) * small / rows), good


def pulled_through(parts: Product) -> SelectedRows:
    """``E`` before a norm or scale, from ``E`` after it.

    Of a norm, ``δ = (g ∘ δ_y - x̂ mean(x̂ ∘ g ∘ δ_y)) / σ``. The second term needs ``E = α B / ν``, the first
    ``G_i ⊗ E_y,i = κ diag(E_i)``, and the mean needs both at every row that takes part in it. ``α`` is the share that a
    piece has of its small one (a copied head), 1 for a whole space.
    """
    source, inner, weight, _ = parts.by_head(parts.before)
    home, entry, pull, exact = parts.by_head(parts.after)
    gain, factor = parts.gain_by_head()
    nu, kappa, good = parts.spread()
    if parts.kind == "scale":
        found = SelectedRows(parts.after.index, (factor * pull).ravel(), parts.after.small, parts.after.exact)
        ok = ((gain == entry) | (factor * pull == 0)) & (exact | (factor == 0))
        return replace(found, exact=ok.ravel())
    lead = np.abs(weight).argmax(axis=1)[:, None]
    most = [np.take_along_axis(part, lead, axis=1) for part in (factor * pull, weight)]
    share = most[0] * nu / (kappa * np.where(most[1] == 0, 1.0, most[1]))
    same = (gain == inner) & (entry == inner) & (home == source) & close(factor * pull, share * kappa * weight / nu)
    ok = np.where(weight == 0, factor * pull == 0, same) & (exact | (factor == 0))
    ok &= good & ((ok | (weight == 0)).all(axis=1, keepdims=True) | (weight == 0))
    unread = ((pull == 0) & exact).all(axis=1, keepdims=True)
    pulled = np.where(unread, 0.0, share * weight / nu)
    return SelectedRows(parts.before.index, pulled.ravel(), parts.before.small, (ok | unread).ravel())


def written_through(parts: Product) -> Rows:
    """Rows that a norm or scale writes as ``B`` says: ``G_i ⊗ K_i = κ diag(B_i)``."""
    source, inner, weight, known = parts.by_head(parts.before)
    home, entry, wrote, _ = parts.by_head(parts.wrote)
    gain, factor = parts.gain_by_head()
    _, kappa, good = parts.spread()
    same = (gain == inner) & (entry == inner) & (home == source) & close(factor * weight, kappa * wrote)
    ok = np.where(factor * weight == 0, wrote == 0, same)
    known = known if parts.kind == "scale" else known.all(axis=1, keepdims=True)
    rows: Rows = (ok & good & known).ravel()
    return rows


def gain_rows(parts: Product) -> SelectedRows:
    """The gradient of gains, ``Σ_tokens δ'_y ∘ x̂'``: row by row ``E_y ∘ B / κ``, summed over the pieces."""
    source, inner, weight, known = parts.by_head(parts.before)
    home, entry, pull, exact = parts.by_head(parts.after)
    _, kappa, good = parts.spread()
    product = pull * weight / kappa
    known = known if parts.kind == "scale" else known.all(axis=1, keepdims=True)
    ok = exact & ((product == 0) | (good & known & (entry == inner) & (home == source)))
    rows = product.shape[1]
    if parts.heads == (1, 1):
        return SelectedRows(inner[0], product[0], parts.before.small, ok[0])
    small = parts.before.small // parts.heads[0]
    lead = np.abs(product).argmax(axis=0)
    index = inner[lead, np.arange(rows)]
    totals = np.zeros((parts.heads[0], rows))
    np.add.at(totals, (source.ravel(), np.tile(np.arange(rows), parts.heads[1])), product.ravel())
    one = ((inner == index) | (product == 0)).all(axis=0) & close(totals, totals[:1]).all(axis=0)
    return SelectedRows(index, totals.mean(axis=0), small, ok.all(axis=0) & one)


def padded(growth: Growth, space: str) -> Map:
    """``[I; 0]`` of an index space: the small model knows nothing of new entries."""
    small, large = growth.small.width(space), growth.large.width(space)
    if small is None or large is None or small == large:
        return Identity(small or 1)
    weight = (np.arange(large) < small).astype(np.float64)
    return Select(np.minimum(np.arange(large), small - 1), small, weight)


def _settle(exact: dict[Place, Rows], rows: Callable[[Place], Rows]) -> None:
    """Repeat until nothing changes: rows only ever lose what they were taken for."""
    changed = True
    while changed:
        changed = False
        for place, before in exact.items():
            after = before & rows(place)
            changed |= bool((after != before).any())
            exact[place] = after


def _through_function(base: SelectedRows, writes: SelectedRows) -> Rows:
    plain = (writes.weight == 1) & (base.index == writes.index)
    rows: Rows = (base.weight == 0) | plain
    return rows


def _copies(writes: SelectedRows, *, zero_allowed: bool) -> Rows:
    rows: Rows = (writes.weight == 1) | (zero_allowed & (writes.weight == 0))
    return rows
