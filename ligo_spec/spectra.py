"""Singular values of some grown weights, taken as they are written, beside those of the small ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.layout import unpack
from ligo_spec.maps import Matrix
from ligo_spec.outputs import Outputs
from ligo_spec.recipe import TensorRecipe, grown_shape

LARGEST = 2048
"""Longest side of a weight whose singular values are computed."""

BUDGET = 1 << 35
"""Multiplications that all of them may take (``long · short²`` each, of the large weights), some seconds' worth."""

FLOOR = 1e-7
"""Values below this part of the largest are rounding: they are roots of eigenvalues in float64."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of one weight, in falling order, without those that are rounding.

    Args:
        name: Canonical.
        shape: Of the matrix.
        values: As many as the numerical rank.
    """

    name: str
    shape: tuple[int, ...]
    values: Matrix


def singular_values(weight: npt.NDArray[Any]) -> Matrix | None:
    """Singular values above `FLOOR` of the largest, falling; None where an entry is not finite.

    Roots of the eigenvalues of the smaller of ``W Wᵀ`` and ``Wᵀ W``: several times faster than a decomposition of
    ``W``, and as exact as a logarithmic plot can show.
    """
    wide = weight.astype(np.float64)
    scale = float(np.abs(wide).max(initial=0))
    if not np.isfinite(scale):
        return None
    if not scale:
        return np.zeros(0)
    wide /= scale  # squares neither overflow nor vanish
    found = np.linalg.eigvalsh(wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide)
    values: Matrix = np.sqrt(np.maximum(found[::-1], 0.0)) * scale
    kept: Matrix = values[values > FLOOR * values[0]]
    return kept


class Spectra:
    """Looks at weights as they are written, and keeps singular values instead of weights.

    Attributes:
        skipped: Canonical template -> why no weight of this kind was looked at.
        found: Canonical name of a large weight -> its spectrum.
    """

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self.skipped: dict[str, str] = {}
        self.found: dict[str, Spectrum] = {}
        self._chosen = dict.fromkeys(self._choose())  # in the order of the family
        self._places = {
            name: [(part, held) for part, held in enumerate(slot.holds) if held in self._chosen]
            for name, slot in outputs.slots.items()
            if not self._chosen.keys().isdisjoint(slot.holds)
        }

    def look(self, name: str, value: npt.NDArray[Any]) -> None:
        """See one tensor of the large file, in the layout of that file; some are looked at, each once."""
        for part, held in self._places.pop(name, ()):
            weight = unpack(value, self._outputs.slots[name].steps)[part]
            self._keep(self._outputs.recipes[held], weight)

    def pairs(self) -> Iterator[tuple[str, list[Spectrum], list[Spectrum]]]:
        """For every kind of weight that was looked at: the template, spectra of large ones, and of their sources."""
        small = self._outputs.small
        kinds: dict[str, list[TensorRecipe]] = {}
        for name in (name for name in self._chosen if name in self.found):
            kinds.setdefault(self._outputs.recipes[name].template, []).append(self._outputs.recipes[name])
        for template, recipes in kinds.items():
            sources = dict.fromkeys(recipe.sources[0] for recipe in recipes if recipe.sources)
            beside = []
            for source in sources:  # one small weight in memory at a time
                values = singular_values(small.read(source))
                beside += [] if values is None else [Spectrum(source, small.shape(source), values)]
            yield template, [self.found[recipe.name] for recipe in recipes], beside

    def _keep(self, recipe: TensorRecipe, weight: npt.NDArray[Any]) -> None:
        values = singular_values(weight)
        if values is None:
            self.skipped[recipe.template] = "it has entries that are not finite"
        else:
            self.found[recipe.name] = Spectrum(recipe.name, weight.shape, values)

    def _choose(self) -> Iterator[str]:
        """The first and last weight of each kind, while they are small enough and the budget lasts."""
        left = BUDGET
        for template, recipes in self._by_kind().items():
            shape = grown_shape(recipes[0], self._outputs.small.shape(recipes[0].sources[0]))
            if len(shape) != 2 or 1 in shape:
                continue
            ends = list(dict.fromkeys([recipes[0].name, recipes[-1].name]))
            cost = len(ends) * max(shape) * min(shape) ** 2
            if max(shape) > LARGEST:
                self.skipped[template] = f"{shape[0]:,} × {shape[1]:,} is larger than {LARGEST:,}"
            elif cost > left:
                self.skipped[template] = "others have used up the time for it"
            else:
                left -= cost
                yield from ends

    def _by_kind(self) -> Mapping[str, list[TensorRecipe]]:
        kinds: dict[str, list[TensorRecipe]] = {}
        written = {name for slot in self._outputs.slots.values() for name in slot.holds}
        for recipe in self._outputs.recipes.values():
            if recipe.name in written and recipe.sources:
                kinds.setdefault(recipe.template, []).append(recipe)
        return kinds
