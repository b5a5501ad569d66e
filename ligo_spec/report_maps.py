"""The parts of a report on width maps and depth rows: drawn beside their start, and how far they moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ligo_spec import figures
from ligo_spec.explain import depth_rows, structure
from ligo_spec.family import Family
from ligo_spec.map_views import binned, change, ratio
from ligo_spec.maps import Map, Matrix, Select, as_select, equal
from ligo_spec.markup import Markup, element, figure, gallery, paragraph, section, table
from ligo_spec.operator import Mix, Operator, Term
from ligo_spec.report_fit import Learned

MOST_MAPS, MOST_MIXES = 12, 9
"""Maps, and depth rows, that are drawn; of the others, the tables speak."""

LEGEND = (
    "Orange is positive, blue negative, and 0 has the colour of the page. Rows are large units, columns small ones; "
    "where there are more than pixels, a pixel is the mean of its block."
)


@dataclass(frozen=True, eq=False)
class _Choices:
    """A map of a term under its name: one for all layers or one a layer, at the start too where they were learned."""

    name: str
    used_by: tuple[str, ...]
    end: tuple[Map, ...]
    start: tuple[Map, ...]

    @property
    def changes(self) -> list[float]:
        return [change(start, end) for start, end in zip(self.start, self.end, strict=True)]


def map_section(operator: Operator, learned: Learned | None, drawn: bool) -> Markup:
    """Width maps; the empty string where no width grows."""
    found = [each for number, _ in enumerate(operator.terms) for each in _choices(operator, learned, number)]
    if not found:
        return Markup()
    head = ["map", "shape", "layers", "structure", "used by", *(["changed by"] if learned else [])]
    rows = [
        (element("code", each.name), "{:,} × {:,}".format(*each.end[0].shape), len(each.end), structure(each.end[0]),
         ", ".join(each.used_by), *([_span(each.changes)] if learned else []))
        for each in found
    ]  # fmt: skip
    shown = [_drawings(each, learned is not None) for each in found[:MOST_MAPS]] if drawn else []
    galleries = [gallery(each) for each in shown] if learned else [gallery(chain(*shown))]
    left = [f"Not drawn: {', '.join(each.name for each in found[MOST_MAPS:])}."] if found[MOST_MAPS:] else []
    told = paragraph("Change is ‖end - start‖ / ‖start‖ in the Frobenius norm.", class_="soft") if learned else Markup()
    images = drawn and (learned or any(as_select(map_) is None for each in found for map_ in each.end))
    legend = paragraph(LEGEND, class_="soft") if images else Markup()
    return section("Width maps", table(head, rows), told, legend, *galleries, *map(paragraph, left if drawn else []))


def depth_section(operator: Operator, family: Family, learned: Learned | None, drawn: bool) -> Markup:
    """Depth rows; the empty string where no layer is mixed or moved."""
    found = list(_mixes(operator, learned))
    if all(_is_identity(end) for _, end, _ in found):
        return Markup()
    told = [paragraph("Layers come from: ", row) for row in depth_rows(operator, family)]
    moved = Markup()
    if learned:
        rows = [(element("code", _names(keys)), _changed(start, end)) for keys, end, start in found]
        moved = table(["tensors", "changed by"], rows)
    shown = [
        figure(_depth_drawing(end, start, learned is not None), element("code", _names(keys)))
        for keys, end, start in (found[:MOST_MIXES] if drawn else ())
    ]
    left = len(found) - MOST_MIXES
    more = [paragraph(f"{left} more are not drawn.")] if left > 0 and drawn else []
    return section("Depth", *told, moved, gallery(shown), *more)


def _choices(operator: Operator, learned: Learned | None, number: int) -> Iterator[_Choices]:
    """The maps of a term, apart from identities; equal ones together."""
    term = operator.terms[number]
    before = learned.start.terms[number] if learned else term
    groups: list[_Choices] = []
    for name, users in _users(term).items():
        end, start = term.maps[name], before.maps[name]
        if all(map(_changes_nothing, (*start, *end))):
            continue
        same = next((g for g in groups if _equal(g.end, end) and _equal(g.start, start)), None)
        if same is None:
            prefix = "" if len(operator.terms) == 1 else f"term {number + 1}: "
            groups.append(_Choices(prefix + name, users, end, start))
        else:
            joint = _Choices(f"{same.name}, {name}", (*same.used_by, *users), same.end, same.start)
            groups[groups.index(same)] = joint
    yield from groups


def _changes_nothing(map_: Map) -> bool:
    """Whether the structure shows an identity."""
    chosen = as_select(map_)
    return chosen is not None and chosen.weight is None and np.array_equal(chosen.index, np.arange(chosen.small))


def _users(term: Term) -> Mapping[str, tuple[str, ...]]:
    users: dict[str, tuple[str, ...]] = {}
    for space, names in term.spaces.items():
        for role, name in (("out", names.out), ("in", names.in_), ("gain", names.gain)):
            users[name] = (*users.get(name, ()), f"{space}.{role}")
    return users


def _equal(first: Sequence[Map], second: Sequence[Map]) -> bool:
    return len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))


def _drawings(choices: _Choices, learned: bool) -> list[Markup]:
    """A map at its first and its last layer: a plot of indices where it selects, else an image, beside its start."""
    layers = [0, len(choices.end) - 1] if len(choices.end) > 1 else [0]
    if len(layers) == 2 and equal(choices.end[0], choices.end[-1]) and equal(choices.start[0], choices.start[-1]):
        layers = [0]
    shown: list[Markup] = []
    for layer in layers:
        name: list[object] = [element("code", choices.name), f", layer {layer}: " if len(layers) > 1 else ": "]
        end, start = choices.end[layer], choices.start[layer]
        chosen = as_select(end)
        if chosen is not None and not (learned and change(start, end)):
            dead = int(np.sum(chosen.weights == 0))
            note = f"; {dead:,} come from none (grey)" if dead else ""
            plot = figures.index_plot(chosen)
            shown.append(figure(plot, *name, f"the small unit that each large one takes{_weights(chosen)}{note}"))
        else:
            shown += _images(name, binned(end), binned(start), end.shape, learned)
    return shown


def _weights(select: Select) -> str:
    found = np.unique(select.weights[select.weights != 0])
    if found.size > 1:
        return f", times {found.size} weights from {found[0]:.4g} to {found[-1]:.4g}"
    return "" if not found.size or found[0] == 1 else f", times {found[0]:.4g}"


def _images(name: list[object], end: Matrix, start: Matrix, size: tuple[int, int], learned: bool) -> list[Markup]:
    axes = (size, "small unit", "large unit")
    limit = _limit(start, end)
    block = " × ".join(f"{side / pixels:.3g}" for side, pixels in zip(size, end.shape, strict=True))
    note = f" (a pixel is {block} entries)" if end.shape != size else ""
    if not learned:
        return [figure(figures.heat_map({"": end}, limit, *axes), *name, f"as applied{note}")]
    moved = end - start
    return [
        figure(figures.heat_map({"": start}, limit, *axes), *name, f"start{note}"),
        figure(figures.heat_map({"": end}, limit, *axes), *name, "learned, same colours"),
        figure(figures.heat_map({"": moved}, _limit(moved), *axes), *name, "learned less start, colours of its own"),
    ]


def _depth_drawing(end: Mix, start: Mix, learned: bool) -> Markup:
    panels = {"start": _wide(start), "learned": _wide(end)} if learned else {"": _wide(end)}
    return figures.heat_map(panels, _limit(start, end), (end.shape[0], end.shape[1]), "small layer", "large layer")


def _mixes(operator: Operator, learned: Learned | None) -> Iterator[tuple[list[str], Mix, Mix]]:
    """Depth rows with their start, and the keys that have them; equal ones once."""
    groups: list[tuple[list[str], Mix, Mix]] = []
    for number, term in enumerate(operator.terms):
        before = learned.start.terms[number] if learned else term
        prefix = "" if len(operator.terms) == 1 else f"term {number + 1}: "
        for key, end in term.depth.items():
            start = before.depth[key]
            same = next((g for g in groups if np.array_equal(g[1], end) and np.array_equal(g[2], start)), None)
            if same is None:
                groups.append(([prefix + key], end, start))
            else:
                same[0].append(prefix + key)
    yield from groups


def _names(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _wide(mix: Mix) -> Matrix:
    return mix.astype(np.float64)


def _limit(*parts: Mix) -> float:
    return max(float(np.abs(part).max(initial=0)) for part in parts)


def _is_identity(mix: Mix) -> bool:
    return mix.shape[0] == mix.shape[1] and np.array_equal(mix, np.eye(mix.shape[0]))


def _changed(start: Mix, end: Mix) -> str:
    moved, whole = (float(np.sum(_wide(part) ** 2)) for part in (end - start, start))
    return f"{ratio(moved, whole):.3g}"


def _span(changes: Sequence[float]) -> str:
    low, high = min(changes), max(changes)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
