"""Layers that add nothing to their stream (SPEC 5.6): what is zero in them, and whether a layer is one."""

from __future__ import annotations

from ligo_spec.family import Family
from ligo_spec.operator import Operator
from ligo_spec.relations import Norm, Scale


def standing(family: Family, stack: str) -> list[str]:
    """Gains of the norms that stand in a stack's stream: they change it, whatever the layer adds (post-norm models)."""
    stream = family.stacks[stack].residual
    norms = (norm for norm in family.relations.norms if norm.reads == norm.writes == stream)
    return [norm.gain for norm in norms if family.stack_of(norm.gain) == stack]


def adders(family: Family, stack: str) -> list[str]:
    """Canonical tensors of a stack's layers that add to its stream, or scale what is added: gains, LayerScale.

    Where all of them are zero, a layer adds nothing, whatever its other tensors are. Gains and biases of norms that
    stand in the stream are none of them: zeros there would take away what the layers before have added.
    """
    stream = family.stacks[stack].residual
    links: tuple[Norm | Scale, ...] = (*family.relations.norms, *family.relations.scales)
    gains = [link.gain for link in links if link.writes == stream]
    norms = {_module(gain) for gain in standing(family, stack)}
    written = dict.fromkeys([*family.writers(stream), *gains])
    return [name for name in written if family.stack_of(name) == stack and _module(name) not in norms]


def adds_nothing(operator: Operator, family: Family, stack: str, layer: int, source: int) -> bool:
    """Whether all that a large layer would add to the stream is zero.

    Args:
        operator: The maps.
        family: That of the small model.
        stack: Whose layer.
        layer: Of the large model.
        source: The small layer that it comes from, whose tensors it has.
    """
    there = [name for name in adders(family, stack) if family.in_layer(name, source)]
    return not any(term.mix(name)[layer].any() for name in there for term in operator.terms_of(name))


def silent(operator: Operator, family: Family, stack: str, layer: int, source: int) -> bool:
    """Whether the stream leaves a large layer as it was: nothing is added, and no norm stands in it."""
    return not standing(family, stack) and adds_nothing(operator, family, stack, layer, source)


def _module(name: str) -> str:
    return name.rpartition(".")[0]
