"""What a graph shows of a family before anything is known of its sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ligo_onnx._claims import Claim, prefixes
from ligo_onnx._recover import oriented
from ligo_onnx._uses import Step, Use
from ligo_spec.family import LAYER, Family, template_pattern
from ligo_spec.file_layout import EXPERT, Entry, Split
from ligo_spec.layout import BASE, Slot


@dataclass(frozen=True)
class Seen:
    """A tensor that the graph has.

    Args:
        name: Its name in the family's files.
        layer: Its layer, or None.
        canonical: The canonical templates that it holds.
        shape: Its shape with outputs first; its first side is the sum of those of the canonical tensors.
        use: Where it was seen.
        steps: What turns the tensor as files have it.
        grouped: Whether its parts lie head by head, so that no Reshape of one of them is seen.
    """

    name: str
    layer: int | None
    canonical: tuple[str, ...]
    shape: tuple[int, ...]
    use: Use
    steps: tuple[Step, ...]
    grouped: bool


def seen(claims: list[Claim], family: Family) -> list[Seen]:
    """Every tensor of the family that the names in a graph give away, under the prefix that fits most of them."""
    names = {claim.name for claim in claims}
    layout = family.layouts["hf"]
    best: list[tuple[Claim, Slot]] = []
    for prefix in prefixes(names):
        for base in layout.base:
            templates = {name.replace(BASE, base): entries[0] for name, entries in layout.tensors.items()}
            found = list(_matched(claims, prefix, templates))
            if len({slot.name for _, slot in found}) > len({slot.name for _, slot in best}):
                best = found
    ways: dict[str, dict[str, list[Seen]]] = {}
    for claim, slot in best:
        way = oriented(claim.use, slot, family, by_name=claim.how == "name")
        if way is not None:
            shape = way[1][::-1] if slot.declared.count("transpose") % 2 else way[1]
            one = Seen(slot.name, slot.layer, slot.canonical, shape, claim.use, way[0], _grouped(slot))
            ways.setdefault(slot.name, {}).setdefault(claim.how, []).append(one)
    # What a module consumes counts before what a tensor is called, as it does where sizes are known.
    return [(kinds.get("scope") or kinds["name"])[0] for kinds in ways.values()]


def _matched(claims: list[Claim], prefix: str, templates: Mapping[str, Entry]) -> Iterator[tuple[Claim, Slot]]:
    for claim in claims:
        if not claim.name.startswith(prefix):
            continue
        name = claim.name.removeprefix(prefix)
        for template, entry in templates.items():
            match = template_pattern(template).fullmatch(name)
            if match:
                layer = int(match["i"]) if LAYER in template else None
                expert = int(match["e"]) if EXPERT in template else None
                yield claim, Slot(name, template, layer, expert, entry.steps, (), entry.is_)
                break


def _grouped(slot: Slot) -> bool:
    return any(isinstance(step, Split) and step.per is not None for step in slot.declared)
