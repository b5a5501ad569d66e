"""The four proofs that every family must pass, against files and forward passes of Transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import ligo_spec
from ligo_spec.certify import certify
from ligo_spec.errors import PlanError
from ligo_spec.family import LayerList, family_names, load_family
from ligo_spec.family_sizes import small_targets
from ligo_spec.job import open_model
from ligo_spec.methods import build_operator
from ligo_spec.methods.hypercloning import HyperCloning
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import OperatorChoice
from ligo_spec.testing import DrawnGrowth, architectures, growths, random_small
from tests.effort import examples
from tests.family_table import ROWS
from tests.forward import difference
from tests.models import problems_of_loading
from tests.test_certify import agree
from tests.tiny_checkpoints import config_of, plan_file, same_bits, saved, tensors_of

QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

CLASSES = [(family, name) for family, row in ROWS.items() for name in row.classes]

EPS = {"eps", "epsilon"}


def test_every_family_has_a_row() -> None:
    """A new family is one YAML file and one row; without the row this fails."""
    assert sorted(ROWS) == family_names()


def drawn_config(data: st.DataObject, family: str) -> dict[str, Any]:
    """A tiny config of random sizes and flags, with what Transformers needs beside them."""
    return dict(data.draw(architectures(load_family(family), ROWS[family].config)).config)


@pytest.mark.parametrize(("family", "class_name"), CLASSES)
@settings(max_examples=examples(4), suppress_health_check=QUIET)
@given(data=st.data())
def test_what_is_read_is_written_bit_for_bit(family: str, class_name: str, data: st.DataObject) -> None:
    """Proof 1: a file of any class, at any sizes, tied or not: read, canonical, written, no bit changed, none left."""
    config = drawn_config(data, family)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        dtype = data.draw(st.sampled_from(["float32", "bfloat16"]))
        small = saved(directory / "small", class_name, config, data.draw(st.integers(0, 9)), dtype=dtype)
        model = open_model(small)
        assert model.architecture.family.name == family
        assert not model.binding.dropped
        assert not model.untied
        grown = ligo_spec.apply(plan_file(directory)).path
        assert same_bits(tensors_of(grown), tensors_of(small))
        assert config_of(grown) == config_of(small)


@pytest.mark.parametrize(("family", "class_name"), CLASSES)
@settings(max_examples=examples(3), suppress_health_check=QUIET)
@given(data=st.data())
def test_grown_models_load(family: str, class_name: str, data: st.DataObject) -> None:
    """Proof 2: the class finds every tensor, none too many, all of its own shapes; the config has the new sizes."""
    drawn = data.draw(growths([family], config=ROWS[family].config))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        saved(directory / "small", class_name, drawn.growth.small.config)
        rules = load_family(family).sizes
        target = {k: v for k, v in drawn.growth.large.sizes.items() if rules[k].config is not None}
        operator = drawn.choice.model_dump(exclude_none=True)
        grown = ligo_spec.apply(plan_file(directory, target=target, operator=operator, seed=drawn.seed)).path
        assert not problems_of_loading(family, class_name, grown)
        found = open_model(grown).architecture
        assert dict(found.sizes) == dict(drawn.growth.large.sizes)
        same = {k: v for k, v in config_of(directory / "small").items() if not k.endswith(tuple(EPS))}
        changed = {key for rule in rules.values() for key in (rule.config, *rule.also)}
        changed |= {key for key, rule in load_family(family).layer_lists.items() for key in _keys_of(key, rule)}
        if found.depths != drawn.growth.small.depths:
            assert not set(load_family(family).recounted) & config_of(grown).keys()
            changed |= set(load_family(family).recounted)
        after = config_of(grown)
        assert {k: v for k, v in same.items() if after.get(k) != v}.keys() <= changed


def _keys_of(key: str, rule: LayerList) -> tuple[str, ...]:
    """The keys by which a config says a list: where it lists numbers of layers, those of its pattern too."""
    return (key, *(rule.period.config if rule.listed is not None and rule.period else ()))


@pytest.mark.parametrize("family", ROWS)
@settings(suppress_health_check=QUIET)
@given(data=st.data())
def test_certificate_and_forward_pass_agree(family: str, data: st.DataObject) -> None:
    """Proof 3: any sizes, methods, options: an empty certificate is equal outputs (float64, 1e-9), and only that is."""
    drawn: DrawnGrowth = data.draw(growths([family], config=ROWS[family].config))
    agree(drawn.growth, drawn.operator, data.draw(st.integers(0, 2**16)))


@pytest.mark.parametrize("family", ROWS)
@settings(suppress_health_check=QUIET)
@given(data=st.data())
def test_lossless_widths_are_lossless(family: str, data: st.DataObject) -> None:
    """The same where many draws are lossless; in float32 equal within 1e-4."""
    drawn: DrawnGrowth = data.draw(
        growths([family], config=ROWS[family].config, width=["hypercloning", "zero_pad", "net2net"], depth=[None])
    )
    if agree(drawn.growth, drawn.operator, data.draw(st.integers(0, 2**16))):
        assert difference(drawn.growth, drawn.operator, random_small(drawn.growth.small, 1), "float32") <= 1e-4


def cloned(family: str) -> list[tuple[Growth, Operator]]:
    """Some growths of a family by whole copies, at fixed depth, those that are lossless."""
    found: list[tuple[Growth, Operator]] = []

    @settings(max_examples=60, database=None, derandomize=True, suppress_health_check=QUIET)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        small = data.draw(architectures(load_family(family), ROWS[family].config))
        target = data.draw(st.sampled_from(small_targets(small)))
        depths = {stack.count for stack in small.family.stacks.values()}
        growth = Growth(small, small.grown({n: size for n, size in target.items() if n not in depths}))
        wider = growth.ratio(small.family.residuals[0]) < 1
        try:
            operator = build_operator(growth, HyperCloning(), None)
        except PlanError:
            return
        if wider and not certify(growth, operator):
            found.append((growth, operator))

    collect()
    return found


@pytest.mark.parametrize("family", ROWS)
def test_copies_of_everything_are_lossless(family: str) -> None:
    """HyperCloning of the width is lossless on every family: on paper and in the forward pass."""
    some = cloned(family)[:5]
    assert some
    for growth, operator in some:
        assert difference(growth, operator, random_small(growth.small, 2, np.float64)) <= 1e-9


# --- depth ------------------------------------------------------------------------------------------------------------

POST_NORM = {"bert": None, "roberta": None, "electra": None, "distilbert": None, "opt": "pre_norm"}
"""Families whose norms stand in the stream, all or those without the flag: a layer that adds nothing norms it again."""

SILENT = [{"method": "zero_layers"}, *({"method": "identity", "place": place} for place in ("spread", "end", "start"))]
"""Every way to add layers that add nothing."""


@pytest.mark.parametrize("family", ROWS)
@settings(max_examples=examples(8), suppress_health_check=QUIET)
@given(data=st.data())
def test_layers_that_add_nothing_are_lossless(family: str, data: st.DataObject) -> None:
    """Identity blocks and layers of zeros, wherever norms stand before or after the branches: on paper and in fact."""
    small = data.draw(architectures(load_family(family), ROWS[family].config))
    more = data.draw(st.lists(st.integers(0, 3), min_size=len(small.depths), max_size=len(small.depths)).filter(any))
    counts = [stack.count for stack in small.family.stacks.values()]
    growth = Growth(small, small.grown({count: small.sizes[count] + n for count, n in zip(counts, more, strict=True)}))
    choice = OperatorChoice.model_validate({"depth": data.draw(st.sampled_from(SILENT))})
    try:
        operator = build_operator(growth, None, choice.depth)
    except PlanError as error:
        assume("which has no layers.{i}.attn_norm.weight" not in str(error))  # a first layer that has no like
        raise
    flag = POST_NORM.get(family)
    wanted = family not in POST_NORM or (flag is not None and small.flags[flag])
    assert agree(growth, operator, data.draw(st.integers(0, 2**16))) == wanted
