"""Every backend against the reference, and the learnable operator of the torch backend against both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec import reference
from ligo_spec.backend import backend_names, load_backend
from ligo_spec.errors import PlanError
from ligo_spec.family import LAYER, at_layer
from ligo_spec.layer_kinds import settled
from ligo_spec.maps import dense
from ligo_spec.testing import DrawnGrowth, check_backend, expected, growths, random_small


@pytest.mark.parametrize("name", backend_names())
def test_installed_backends_conform(name: str) -> None:
    """The conformance suite, as a third party would run it."""
    if name == "torch":
        pytest.importorskip("torch")
    check_backend(load_backend(name), examples=60)


def test_the_backends_are_these() -> None:
    """What the parametrisation above runs over."""
    assert backend_names() == ["numpy", "torch"]


def test_the_gpu_conforms() -> None:
    """The same suite where a GPU is at hand."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = False
    check_backend(load_backend("torch", device="cuda"))


def test_a_device_that_is_not_there_is_refused() -> None:
    """And so is a backend of an unknown name."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(PlanError, match="finds no CUDA device"):
            load_backend("torch", device="cuda")
    with pytest.raises(PlanError, match=r"nump.*numpy"):
        load_backend("nump")


def learnable(drawn: DrawnGrowth, small: dict[str, Any]) -> Any:
    """The torch backend's learnable operator at the drawn start."""
    torch = pytest.importorskip("torch")
    from ligo_torch.learnable import LearnableOperator

    tensors = {name: torch.tensor(value) for name, value in small.items()}
    return LearnableOperator(drawn.growth.small.family, drawn.operator, tensors)


@given(growths(), st.integers(0, 2**32 - 1))
def test_learnable_weights_are_the_reference(drawn: DrawnGrowth, seed: int) -> None:
    """Layers batched or one by one, the weights that a fit trains through are the equation's."""
    small = random_small(drawn.growth.small, seed)
    weights = learnable(drawn, small).weights()
    wanted = expected(drawn.growth.small.family, drawn.operator, small)
    assert weights.keys() == wanted.keys()
    for name, (value, bound) in wanted.items():
        # the maps too are rounded to float32 there: one rounding more a factor
        excess = np.abs(weights[name].detach().numpy() - value) / (2 * bound)
        assert float(excess.max(initial=0.0)) <= 1, name


@given(growths(width=["noisy_average"], depth=["noisy_stack"]), st.integers(0, 2**32 - 1))
def test_learnable_gradients_are_the_reference_vjp(drawn: DrawnGrowth, seed: int) -> None:
    """The gradient of ``⟨G, W'⟩`` in every depth map is what the reference's vjps give, summed over the tensors."""
    torch = pytest.importorskip("torch")
    family, operator = drawn.growth.small.family, drawn.operator
    small = random_small(drawn.growth.small, seed)
    model = learnable(drawn, small)
    weights = model.weights()
    large = settled(drawn.growth, operator).large
    cotangent = random_small(large, seed + 1)
    sum((torch.tensor(cotangent[name]) * value).sum() for name, value in weights.items()).backward()
    term = operator.terms[0]
    for template in (name for name in family.tensors if LAYER in name):
        mix = term.mix(template).astype(np.float64)
        there = [j for j in range(mix.shape[1]) if family.in_layer(template, j)]
        if not there:
            continue
        stack = np.zeros((mix.shape[1], *small[at_layer(template, there[0])].shape))
        for j in there:
            stack[j] = small[at_layer(template, j)] + family.tensors[template].offset
        pulled = np.zeros((mix.shape[0], *stack.shape[1:]))
        for i in range(mix.shape[0]):
            if large.family.in_layer(template, i):
                maps = [dense(term.map(dim.space, dim.role, i)) for dim in family.tensors[template].touches]
                mixed = reference.mix_layers(stack, mix)[i]
                given = cotangent[at_layer(template, i)].astype(np.float64)
                pulled[i] = reference.widen_vjp(mixed, maps, given)[0]
        _, want = reference.mix_layers_vjp(stack, mix, pulled)
        found = model._leaf(term.mix(template)).grad.numpy()
        scale = float(np.abs(want).max()) + 1
        np.testing.assert_allclose(found / scale, want / scale, atol=1e-4)
