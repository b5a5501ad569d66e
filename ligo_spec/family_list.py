"""What the shipped families are, and which methods keep their function: computed from the files, never written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ligo_spec.architecture import Architecture
from ligo_spec.certify import certify
from ligo_spec.errors import PlanError
from ligo_spec.family import Family, family_names, load_family
from ligo_spec.family_sizes import growing_sizes, index_sizes, small_configs, small_targets
from ligo_spec.methods import build_operator
from ligo_spec.methods.hypercloning import HyperCloning
from ligo_spec.methods.zero_pad import ZeroPad
from ligo_spec.operator import Growth

WIDTHS = {"hypercloning": HyperCloning(), "zero_pad": ZeroPad()}


@dataclass(frozen=True)
class FamilyRow:
    """A family in a line.

    Args:
        name: Its ``model_type``.
        grows: Sizes that a target may name.
        lossless: For every width method that can keep the function, the sizes that it can grow so, each alone or with
            sizes that it divides or is divided by, or that experts are chosen by; for ``hypercloning`` by integer
            factors.
    """

    name: str
    grows: tuple[str, ...]
    lossless: dict[str, tuple[str, ...]]


def list_families() -> tuple[FamilyRow, ...]:
    """Every shipped family: what can grow, and which methods are exactly lossless.

    A size counts as lossless for a method when the certificate of a tiny model that grows in it is empty.
    """
    return tuple(_row(load_family(name)) for name in family_names())


def _row(family: Family) -> FamilyRow:
    sizes = tuple(growing_sizes(family))
    lossless = {method: tuple(size for size in sizes if _keeps(family, method, size)) for method in WIDTHS}
    return FamilyRow(family.name, sizes, lossless)


def _keeps(family: Family, method: str, size: str) -> bool:
    """Whether growing ``size``, alone or with sizes that a rule of the family links to it, can keep the function."""
    allowed = {size}.union(*(pair for pair in (*family.divides, *family.routed) if size in pair))
    for growth in _growths(family, size):
        if not _grown_sizes(growth) <= allowed:
            continue
        try:
            operator = build_operator(growth, WIDTHS[method], None)  # type: ignore[arg-type]
        except PlanError:
            continue
        if not certify(growth, operator):
            return True
    return False


def _grown_sizes(growth: Growth) -> set[str]:
    """The sizes that grow, but for those that are computed."""
    rules, large = growth.small.family.sizes, growth.large.sizes
    return {name for name, size in growth.small.sizes.items() if rules[name].config and large[name] != size}


def _growths(family: Family, size: str) -> Iterator[Growth]:
    """Growths to twice a size of the first configs that can, at fixed depth, the other sizes as they are or twice."""
    counts = {stack.count for stack in family.stacks.values()}
    if size in counts:
        return
    if size in index_sizes(family):  # by itself: targets of other sizes leave them as they are
        small = Architecture.from_hf_config(family, {"model_type": family.name, **small_configs(family)[0]})
        yield Growth(small, small.grown({size: 2 * small.sizes[size]}))
        return
    tried = 0
    for config in small_configs(family):
        small = Architecture.from_hf_config(family, {"model_type": family.name, **config})
        for target in small_targets(small):
            if any(target[count] != small.sizes[count] for count in counts) or target[size] != 2 * small.sizes[size]:
                continue
            tried += 1
            yield Growth(small, small.grown(target))
        if tried >= 40:
            return


def markdown(rows: tuple[FamilyRow, ...]) -> str:
    """The table of the README."""
    lines = ["| family | can grow | `hypercloning` is lossless in | `zero_pad` is lossless in |", "|---|---|---|---|"]
    for row in rows:
        cells = [row.grows, row.lossless["hypercloning"], row.lossless["zero_pad"]]
        lines.append(f"| `{row.name}` | " + " | ".join(", ".join(cell) or "none" for cell in cells) + " |")
    return "\n".join(lines)
