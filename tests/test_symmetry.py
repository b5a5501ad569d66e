"""Copies that training cannot part: read off the maps, and seen in training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ligo_spec import reference
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.explain import grown_config
from ligo_spec.layout import bind, pack
from ligo_spec.maps import Blocks, Dense, Identity, Select, dense
from ligo_spec.operator import Growth, Operator
from ligo_spec.symmetry import alike, row_labels
from ligo_spec.testing import random_small
from tests.forward import _model, _places, all_in, inputs
from tests.models import takes
from tests.test_certify import CONFIGS, growth_of, operator_of

Array = npt.NDArray[Any]


def trained(growth: Growth, operator: Operator, steps: int) -> dict[str, Array]:
    """The large model's matrices, by their names in a file, after some steps of Adam on random targets."""
    import json

    torch = pytest.importorskip("torch")
    small = random_small(growth.small, 4, np.float64)
    large = reference.grow(growth.small.family, operator, small)
    family, config = growth.large.family.name, json.dumps(grown_config(growth, operator), sort_keys=True)
    model = _model(family, config, "float64")
    places = _places(model)
    flat = torch.zeros(sum(value.numel() for value in model.parameters()), dtype=torch.float64)
    infos = {key: TensorInfo(key, "F64", tuple(place.shape)) for key, place in places.items()}
    for key, slot in bind(growth.large, infos, family).slots.items():
        flat[places[key]] = torch.tensor(pack(slot.taken(large), slot.steps))
    flat.requires_grad_()
    optimizer = torch.optim.Adam([flat], lr=0.02)
    asked = inputs(growth.small, takes(model), "float64")
    wanted = torch.tensor(
        np.random.default_rng(1).integers(0, growth.small.sizes["vocab_size"], asked["input_ids"].shape)
    )
    for _ in range(steps):
        parts = flat.split([value.numel() for value in model.parameters()])
        named = {k: part.reshape(v.shape) for (k, v), part in zip(model.named_parameters(), parts, strict=True)}
        with all_in("float64"):
            logits = torch.func.functional_call(model, named, (), asked)["logits"]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()).backward()
        optimizer.step()
    return {key: flat.detach()[place].numpy() for key, place in places.items()}


def alike_rows(matrix: Array) -> int:
    """How many rows have another one that is the same."""
    close = np.abs(matrix[:, None] - matrix[None]).max(axis=2) < 1e-9
    return int((close.sum(axis=1) > 1).sum())


UP = {"llama": "model.layers.1.mlp.up_proj.weight", "bert": "bert.encoder.layer.1.intermediate.dense.weight"}
EMBED = {"llama": "model.embed_tokens.weight", "bert": "bert.embeddings.word_embeddings.weight"}
VALUE = {"llama": "model.layers.1.self_attn.v_proj.weight", "bert": "bert.encoder.layer.1.attention.self.value.weight"}


@pytest.mark.parametrize("family", UP)
@pytest.mark.parametrize(
    ("width", "copied"),
    [
        ("hypercloning", True),
        ({"method": "net2net", "choice": "even"}, True),
        ("normalized_copy", True),
        ({"method": "hypercloning", "noise": 10}, False),
        ({"method": "normalized_copy", "noise": 10}, False),
        ("lemon", False),
        ("zero_pad", False),
    ],
    ids=str,
)
def test_training_parts_what_is_not_alike(family: str, width: Any, copied: bool) -> None:
    """Three steps of Adam: alike units, channels and heads stay equal to the last digit; where none is, all part."""
    growth = growth_of(family)
    operator = operator_of(growth, width=width)
    found = {item.where: (item.units, item.of) for item in alike(growth, operator)}
    wanted = {"ffn": (12, 12), "residual": (16, 16), "key": (4, 4)}
    wanted |= {"pooled": (16, 16), "transform": (16, 16)} if family == "bert" else {}
    assert found == (wanted if copied else {})
    weights = trained(growth, operator, 3)
    for rows in (weights[UP[family]], weights[EMBED[family]].T, weights[VALUE[family]]):
        assert alike_rows(rows) == (len(rows) if copied else 0)


@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_alike_depends_on_the_options(family: str) -> None:
    """Even shares, dead blocks, a third copy from the next layer; and nothing where nothing grows."""

    def where(width: Any, **changes: Any) -> set[str]:
        growth = growth_of(family, **changes)
        return {item.where for item in alike(growth, operator_of(growth, width=width))}

    assert where({"method": "lemon", "split": "even"}) >= {"ffn", "residual", "key"}
    assert where({"method": "zero_pad", "free": "zero"}) >= {"ffn", "key"}
    assert where("noisy_average") == set()
    assert where("hypercloning", target={}) == set()
    aki: dict[str, Any] = {"method": "bert2bert", "choice": "even"}
    assert not where(aki) & {"ffn", "residual", "key"}  # old and new rows are of different layers
    size = "intermediate_size"
    small = growth_of(family).small.sizes[size]
    assert where(aki, target={size: 2 * small}) == set()
    assert where(aki, target={size: 3 * small}) == {"ffn"}


def test_heads_of_one_group_are_alike() -> None:
    """Only query heads grow: copies share their key-value head; noise parts them."""
    growth = growth_of("llama", {"num_attention_heads": 8})
    (found,) = alike(growth, operator_of(growth, width="hypercloning"))
    assert str(found) == "query: 8 of 8 heads are 4 different ones, copied"
    assert alike(growth, operator_of(growth, width={"method": "hypercloning", "noise": 20})) == []


def test_a_map_a_layer_is_looked_at_layer_by_layer() -> None:
    """One layer with copies is enough."""
    from dataclasses import replace

    growth = growth_of("llama", {"intermediate_size": 12})
    operator = operator_of(growth, width="lemon")
    term = operator.main
    even = Select(np.arange(12) % 6, 6, np.full(12, 0.5))
    name = term.spaces["ffn"].in_
    for own in ((term.maps[name][0], even), (even, term.maps[name][0])):
        changed = replace(operator, terms=(replace(term, maps={**term.maps, name: own}),))
        assert [item.where for item in alike(growth, changed)] == ["ffn"]
    assert alike(growth, operator) == []


def test_rows_are_compared_whatever_the_structure() -> None:
    """A selection, the same as blocks and as a matrix: the same rows are equal; zero rows are one, of any index."""
    select = Select(np.array([0, 1, 0, 2, 1]), 3, np.array([1.0, 0.0, 1.0, 0.5, 0.0]))
    for map_ in (select, Dense(dense(select)), Blocks((select,))):
        labels = row_labels(map_)
        assert [int(a == b) for a, b in pairwise(labels[[0, 2, 1, 4, 3]])] == [1, 0, 1, 0]
    assert len(set(row_labels(Identity(4)).tolist())) == 4
