"""An operator whose arrays are parameters: large weights are computed from frozen small ones, differentiably."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ligo_spec.family import LAYER, Family, at_layer
from ligo_spec.layer_kinds import grown_layers
from ligo_spec.maps import Map, arrays_of, with_arrays
from ligo_spec.operator import Mix, Operator, Term
from ligo_torch.contraction import Leaves, Step, apply_maps, cheapest

Floats = npt.NDArray[np.floating]


class LearnableOperator:
    """Parameters for every float array of an operator's maps and for its depth maps.

    A map that has a name is one parameter, wherever it is used, so ties stay ties.

    Args:
        family: The declaration of the tensors.
        operator: Where the parameters start.
        small: The small model's tensors by canonical name, ``float32``, on the device to compute on; frozen.
        allowed: By stack, which small layers may take part in which large ones, ``(layers_large, layers_small)``; all
            where it is left out.
        frozen: Arrays that stay as they are, by identity.
    """

    def __init__(
        self,
        family: Family,
        operator: Operator,
        small: Mapping[str, Tensor],
        allowed: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        frozen: Collection[int] = (),
    ) -> None:
        self.family = family
        self.start = operator
        self.device = next(iter(small.values())).device
        self._learned: dict[int, torch.nn.Parameter] = {}
        for term in operator.terms:
            for choices in term.maps.values():
                for map_ in choices:
                    for array in arrays_of(map_):
                        self._add(array, learned=id(array) not in frozen)
            for mix in term.depth.values():
                self._add(mix, learned=id(mix) not in frozen)
        self._small = self._stacked(small)
        self._orders: dict[tuple[int, str], tuple[Step, ...]] = {}
        self._allowed = {
            stack: torch.tensor(mask, dtype=torch.float32, device=self.device)
            for stack, mask in (allowed or {}).items()
            if not mask.all()
        }

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is learned: maps first, then depth maps, in the operator's order."""
        return [parameter for parameter in self._learned.values() if parameter.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """All tensors of the large model by canonical name, ``W'_i = Σ_t B_t (Σ_j D_t[i, j] W_j) A_tᵀ``."""
        large, leaves = dict[str, Tensor](), Leaves(self._leaf)
        for template, weight in self._small.items():
            terms = [self._term(term, template, weight, leaves) for term in self.start.terms_of(template)]
            total = reduce(torch.add, terms)
            total = total - self.family.tensors[template].offset if self.family.tensors[template].offset else total
            if LAYER in template:
                there = grown_layers(self.family, self.start, template)
                layers = total.unbind()  # by index, the gradient of each layer would be one of all
                large |= {at_layer(template, i): layers[i] for i in there if i is not None}
            else:
                large[template] = total
        return large

    def operator(self) -> Operator:
        """The operator with the values learned so far, in float32."""
        terms = tuple(
            Term(
                {name: tuple(with_arrays(m, self._value) for m in choices) for name, choices in term.maps.items()},
                term.spaces,
                {key: self._value(mix) for key, mix in term.depth.items()},
                term.tensors,
            )
            for term in self.start.terms
        )
        return Operator(self.start.family, self.start.small, self.start.large, terms, self.start.eps_scale)

    def _add(self, array: Floats, *, learned: bool) -> None:
        if id(array) not in self._learned:
            values = torch.tensor(array, dtype=torch.float32, device=self.device)
            self._learned[id(array)] = torch.nn.Parameter(values, requires_grad=learned)

    def _leaf(self, array: Floats) -> Tensor:
        return self._learned[id(array)]

    def _value(self, array: Floats) -> Mix:
        value: Mix = self._learned[id(array)].detach().cpu().numpy().copy()
        return value

    def _stacked(self, small: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Small values by template; those of layers stacked, ``(layers_small, ...)``, zeros where a layer has none."""
        found = {}
        for template, tensor in self.family.tensors.items():
            stack = self.family.stack_of(template)
            if stack is None:
                if template in small:
                    found[template] = small[template] + tensor.offset
                continue
            layers = range(self.start.small[self.family.stacks[stack].count])
            values = {j: small.get(at_layer(template, j)) for j in layers if self.family.in_layer(template, j)}
            there = {j: value + tensor.offset for j, value in values.items() if value is not None}
            if there:
                empty = torch.zeros_like(next(iter(there.values())))
                found[template] = torch.stack([there.get(j, empty) for j in layers])
        return found

    def _term(self, term: Term, template: str, weight: Tensor, leaves: Leaves) -> Tensor:
        """One term of a tensor; of all large layers at once, ``(layers_large, ...)``, where it is one of layers."""
        touches = self.family.tensors[template].touches
        stack = self.family.stack_of(template)
        if stack is None:
            weight = weight[None]
            for axis, dim in enumerate(touches):
                weight = apply_maps([term.map(dim.space, dim.role, None)], weight, axis + 1, leaves)
            return weight[0]
        mix = self._leaf(term.mix(template))
        mix = mix * self._allowed[stack] if stack in self._allowed else mix
        maps = [term.maps[term.spaces[dim.space].of(dim.role)] for dim in touches]
        for step in self._order(term, template, weight.shape[1:], mix, maps):
            if step == "mix":
                weight = torch.tensordot(mix, weight, dims=1)
            else:
                weight = apply_maps(maps[step], weight, step + 1, leaves)
        return weight

    def _order(
        self, term: Term, template: str, shape: Sequence[int], mix: Tensor, maps: Sequence[Sequence[Map]]
    ) -> tuple[Step, ...]:
        key = (id(term), template)
        if key not in self._orders:
            self._orders[key] = cheapest(shape, (mix.shape[0], mix.shape[1]), maps)
        return self._orders[key]
