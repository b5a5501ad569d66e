"""What the shipped families are, and which methods keep their function: computed from the files, never written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.errors import PlanError
from ligo_spec.family import Family, family_names, load_family
from ligo_spec.family_sizes import can_grow, growing_sizes, index_sizes, small_configs
from ligo_spec.methods import WidthMethod, build_operator, hypercloning, lemon, normalized_copy, staged, zero_pad
from ligo_spec.operator import Growth

WIDTHS: dict[str, WidthMethod] = {
    "hypercloning": hypercloning.HyperCloning(),
    "staged": staged.Staged(),
    "lemon": lemon.Lemon(),
    "normalized_copy": normalized_copy.NormalizedCopy(),
    "zero_pad": zero_pad.ZeroPad(),
}
"""The width methods that keep the function of residual streams that grow, with the options that they start from."""

CONFIGS = 60
"""How many configs are looked through for growths of a size."""

TRIED = 20
"""How many growths of a size are tried, at most, before it counts as not kept."""


@dataclass(frozen=True)
class FamilyRow:
    """A family in a line.

    Args:
        name: Its ``model_type``.
        grows: Sizes that a target may name.
        lossless: For every width method that can keep the function, the sizes that it can grow so, each alone or with
            sizes that it divides or is divided by, or that experts are chosen by; to twice at least.
        any_ratio: Those of them that it can grow so by other ratios too.
    """

    name: str
    grows: tuple[str, ...]
    lossless: dict[str, tuple[str, ...]]
    any_ratio: dict[str, tuple[str, ...]]


def list_families() -> tuple[FamilyRow, ...]:
    """Every shipped family: what can grow, and which methods are exactly lossless.

    A size counts as lossless for a method when the certificate of a tiny model that grows in it is empty.
    """
    return _rows()


@cache
def _rows() -> tuple[FamilyRow, ...]:
    return tuple(_row(load_family(name)) for name in family_names())


def _row(family: Family) -> FamilyRow:
    sizes = tuple(growing_sizes(family))
    twice, between = ({size: list(_growths(family, size, whole)) for size in sizes} for whole in (True, False))
    lossless = {method: tuple(size for size in sizes if _keeps(twice[size], method)) for method in WIDTHS}
    any_ratio = {method: tuple(s for s in kept if _keeps(between[s], method)) for method, kept in lossless.items()}
    return FamilyRow(family.name, sizes, lossless, any_ratio)


def _keeps(growths: list[Growth], method: str) -> bool:
    """Whether one of the growths can keep the function."""
    for growth in growths:
        try:
            operator = build_operator(growth, WIDTHS[method], None)
        except PlanError:
            continue
        if not certify(growth, operator):
            return True
    return False


def _growths(family: Family, size: str, whole: bool) -> Iterator[Growth]:
    """Growths of a size, alone or with sizes that a rule of the family links to it, of the first configs that can.

    Args:
        family: The declaration.
        size: What grows.
        whole: To twice it; else to something between.
    """
    if size in {stack.count for stack in family.stacks.values()}:
        return
    configs = small_configs(family)
    if size in index_sizes(family):  # by itself: targets of other sizes leave them as they are
        small = Architecture.from_hf_config(family, {"model_type": family.name, **configs[0]})
        yield Growth(small, small.grown({size: 2 * small.sizes[size] + (0 if whole else 1)}))
        return
    linked = {size}.union(*(pair for pair in (*family.divides, *family.routed) if size in pair))
    names = [name for name in growing_sizes(family) if name in linked]
    tried = 0
    for config in configs[:: max(1, len(configs) // CONFIGS)]:
        small = Architecture.from_hf_config(family, {"model_type": family.name, **config})
        sizes = {name: [small.sizes[name], *(_larger(small.sizes[name], whole))] for name in names}
        sizes[size] = sizes[size][1:2]
        for combination in product(*sizes.values()):
            target = dict(zip(sizes, combination, strict=True))
            if can_grow(small, target):
                tried += 1
                yield Growth(small, small.grown(target))
            if tried == TRIED:
                return


def _larger(size: int, whole: bool) -> list[int]:
    """Twice a size; or half as much again, where that is none of its multiples, and twice it."""
    return [2 * size] if whole else [size * 3 // 2, 2 * size] if size > 1 else []


def cells(row: FamilyRow) -> dict[str, str]:
    """By method, the sizes that it keeps the function in, folded; ``×k``: by whole factors only.

    ``all`` are those that some method keeps. Sizes that every method keeps by any ratio, those of positions, go
    without saying.
    """
    free = set(row.grows).intersection(*row.any_ratio.values())
    some = [size for size in row.grows if size not in free and any(size in kept for kept in row.lossless.values())]
    found = {}
    for method, kept in row.lossless.items():
        ratios = [size for size in some if size in row.any_ratio[method]]
        whole = [size for size in some if size in kept and size not in ratios]
        texts = [_folded(ratios, some)] if ratios else []
        texts += [f"×k: {_folded(whole, some)}"] if whole else []
        found[method] = "; ".join(texts) or "none"
    return found


def _folded(sizes: Sequence[str], some: Sequence[str]) -> str:
    left = [size for size in some if size not in sizes]
    if not left:
        return "all"
    return f"all but {', '.join(left)}" if len(left) < len(sizes) else ", ".join(sizes)


def columns(rows: Sequence[FamilyRow]) -> dict[str, list[str]]:
    """A column for every method; those whose columns are equal have one together."""
    by_cells: dict[tuple[str, ...], list[str]] = {}
    for method in WIDTHS:
        by_cells.setdefault(tuple(cells(row)[method] for row in rows), []).append(method)
    return {", ".join(methods): list(column) for column, methods in by_cells.items()}


def markdown(rows: tuple[FamilyRow, ...]) -> str:
    """The table of the README."""
    found = columns(rows)
    titles = ["`" + title.replace(", ", "`, `") + "`" for title in found]
    lines = [f"| family | can grow | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
    for number, row in enumerate(rows):
        texts = [", ".join(row.grows), *(column[number] for column in found.values())]
        lines.append(f"| `{row.name}` | {' | '.join(texts)} |")
    return "\n".join(lines)
