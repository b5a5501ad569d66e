"""Every family with every width and every depth method: an operator that fits, or a refusal that says why."""

from __future__ import annotations

from itertools import product

import pytest

from ligo_spec.architecture import Architecture
from ligo_spec.errors import PlanError
from ligo_spec.family import Family, family_names, load_family
from ligo_spec.family_sizes import can_grow, growing_sizes, index_sizes, small_configs
from ligo_spec.methods import DEPTH_METHODS, WIDTH_METHODS, build_operator
from ligo_spec.operator import Growth
from ligo_spec.operator_check import check_operator
from ligo_spec.plan import OperatorChoice


def growth_of(family: Family, *, heads_too: bool, deeper: bool) -> Growth:
    """Twice the width, of heads too or of all else, and one more layer; of the first config that has several layers."""
    inner = {family.spaces[attention.query].axes[1] for attention in family.relations.attention}
    counts = {stack.count for stack in family.stacks.values()}
    names = [name for name in growing_sizes(family) if name not in {*index_sizes(family), *counts}]
    for config in small_configs(family):
        small = Architecture.from_hf_config(family, {"model_type": family.name, **config})
        target = {name: small.sizes[name] * 2 for name in names if heads_too or name not in inner}
        target |= {count: small.sizes[count] + deeper for count in counts}
        if can_grow(small, target) and all(small.sizes[count] > 1 for count in counts):
            growth = Growth(small, small.grown(target))
            if heads_too or all(small.sizes[axis] == growth.large.sizes[axis] for axis in inner):
                return growth
    raise AssertionError(f"{family.name} has no config that can grow so")


@pytest.mark.parametrize("name", family_names())
def test_every_width_builds_where_heads_stay(name: str) -> None:
    """Every family has a rule for twice of everything else, under every width method."""
    growth = growth_of(load_family(name), heads_too=False, deeper=False)
    for width in WIDTH_METHODS:
        choice = OperatorChoice.model_validate({"width": width})
        check_operator(build_operator(growth, choice.width, None, seed=1), growth)


@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("heads_too", [False, True], ids=["heads stay", "heads grow"])
def test_every_combination_builds_or_says_why(name: str, heads_too: bool) -> None:
    """A refusal names the method, and the size or the layers that it has no rule for."""
    growth = growth_of(load_family(name), heads_too=heads_too, deeper=True)
    for width, depth in product(WIDTH_METHODS, DEPTH_METHODS):
        texts = {stack: f"0-{layers - 1}, 0" for stack, layers in growth.small.depths.items()}
        options = {"method": depth, **({"layers": texts} if depth == "ranges" else {})}
        choice = OperatorChoice.model_validate({"width": width, "depth": options})
        try:
            operator = build_operator(growth, choice.width, choice.depth, seed=1)
        except PlanError as refusal:
            text = str(refusal)
            assert width in text or depth in text, text
            assert any(word in text for word in (*growth.small.sizes, "layer")), text
            continue
        check_operator(operator, growth)
