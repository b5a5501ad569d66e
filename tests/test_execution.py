"""How a step of training computes its loss: precision, compilation, and layers that are computed again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ligo_spec
from ligo_spec.errors import PlanError
from ligo_spec.plan import Fit
from tests.test_fit import learned, parts_of, plan, prepare, task_of
from tests.tiny_checkpoints import CONFIGS, random_model

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from ligo_torch.execution import COMPILE_FROM, checkpoint_layers, compiles, executed
from ligo_torch.fit import gradients, mean_loss
from ligo_torch.huggingface import FunctionalModel

VIT = {
    "model_type": "vit",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
    "num_labels": 3,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", CONFIGS["gpt2"]),
    "llama": ("LlamaForCausalLM", CONFIGS["llama"]),
    "bert": ("BertForMaskedLM", CONFIGS["bert"]),
    "vit": ("ViTForImageClassification", VIT),
}

CPU = torch.device("cpu")

LAYERS = 2
"""Of all of them."""


def options(**changes: Any) -> Fit:
    """The options of a fit."""
    return Fit.model_validate({"data": {"path": "text.txt"}, **changes})


def batch_for(kind: str) -> dict[str, Any]:
    """What a model of a kind is trained on."""
    generator = torch.Generator().manual_seed(1)
    if kind == "vit":
        return {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator), "labels": torch.tensor([0, 2])}
    ids = torch.randint(0, 31, (2, 8), generator=generator)
    return {"input_ids": ids, "labels": ids}


def functional(kind: str) -> FunctionalModel:
    """A library's model as a function; that its own parameters are other ones, the tests see to."""
    name, config = MODELS[kind]
    model = random_model(name, config).eval().requires_grad_(False)
    model.config.use_cache = False
    return FunctionalModel(model, (), {}, "causal_lm")


def leaves_of(model: FunctionalModel) -> dict[str, Any]:
    """Parameters from outside, unlike the module's own."""
    return {name: (0.7 * value).requires_grad_() for name, value in model.model.named_parameters()}


def counted(model: FunctionalModel) -> list[str]:
    """Is added to whenever the first module of a layer that has parameters is called."""
    calls: list[str] = []
    layers = [module for module in model.model.modules() if type(module).__name__.endswith(("Block", "Layer"))]
    for layer in layers:
        inner = next(module for module in layer.modules() if list(module.parameters(recurse=False)))
        inner.register_forward_pre_hook(lambda module, _: calls.append(type(module).__name__))
    return calls


@pytest.mark.parametrize("kind", MODELS)
def test_layers_that_are_computed_again_give_the_same(kind: str) -> None:
    """Loss and gradients, from parameters that are not the module's own; each layer runs twice, without one once."""
    found: list[tuple[float, Mapping[str, Any]]] = []
    calls = []
    for again in (False, True):
        model = functional(kind)
        if again:
            checkpoint_layers(model.model)
        leaves, seen = leaves_of(model), counted(model)
        loss = model.loss(leaves, batch_for(kind))
        forward = len(seen)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append((float(loss.detach()), {name: leaf.grad for name, leaf in leaves.items()}))
        calls.append((forward, len(seen)))
        assert all(value.grad is None for value in model.model.parameters())
    (once, none_more), (first, twice) = calls
    assert once == none_more == first >= LAYERS
    assert twice == 2 * first
    assert found[1][0] == found[0][0]
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-6, atol=1e-7, msg=name)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found[0][1].values()) > 10 * LAYERS


def test_nothing_is_computed_again_for_a_loss_alone() -> None:
    """Without gradients the layers run once, and say the same."""
    model = functional("gpt2")
    leaves, batch = leaves_of(model), batch_for("gpt2")
    with torch.no_grad():
        wanted = float(model.loss(leaves, batch))
        checkpoint_layers(model.model)
        calls = counted(model)
        assert float(model.loss(leaves, batch)) == wanted
    assert len(calls) == LAYERS


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        checkpoint_layers(torch.nn.Linear(2, 2))
    assert str(caught.value) == "fit.gradient_checkpointing: Linear has no layers to compute again; use false"


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_a_fit_with_checkpointing_is_the_fit_without(kind: str, tmp_path: Path) -> None:
    """In micro-batches too, to rounding."""
    wanted = ligo_spec.fit(prepare(tmp_path, kind, micro_batches=2), tmp_path / "wanted.safetensors")
    path = plan(tmp_path, kind, name="again.yaml", micro_batches=2, gradient_checkpointing=True)
    found = ligo_spec.fit(path, tmp_path / "found.safetensors")
    assert found.losses == pytest.approx(wanted.losses, rel=1e-6)
    assert found.heldout_after == pytest.approx(wanted.heldout_after, rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_bfloat16_is_in_the_passes_of_a_step_alone(kind: str, tmp_path: Path) -> None:
    """Its loss and gradients are near those of float32, and other; held-out losses and all that is learned are not."""
    task = task_of(prepare(tmp_path, kind))
    found = {}
    for precision in ("float32", "bfloat16"):
        changed = task.options.model_copy(update={"precision": precision})
        model, learnable, batches = parts_of(type(task)(**{**vars(task), "options": changed}))
        (batch,) = batches.train(0)
        loss = gradients(executed(model, changed, 1, CPU), learnable, [batch])
        heldout = mean_loss(model, model.parameters(learnable.weights()), [batch])
        found[precision] = (loss, heldout, learned(learnable))
        assert all(gradient.dtype == torch.float32 for gradient in found[precision][2])
    (exact, wanted, gradient), (rough, heldout, other) = found["float32"], found["bfloat16"]
    assert heldout == wanted
    assert rough != exact
    assert rough == pytest.approx(exact, rel=2**-7)
    whole = [torch.cat([part.flatten() for part in parts]) for parts in (gradient, other)]
    assert 1 > float(torch.cosine_similarity(whole[0], whole[1], dim=0)) > 0.99


@pytest.mark.parametrize(
    ("asked", "device", "steps", "micro_batches", "again", "wanted"),
    [
        ("auto", "cpu", 10 * COMPILE_FROM, 1, False, False),
        ("auto", "cuda", COMPILE_FROM - 1, 1, False, False),
        ("auto", "cuda", COMPILE_FROM, 1, False, True),
        ("auto", "cuda", COMPILE_FROM // 4, 4, False, True),
        ("auto", "cuda", COMPILE_FROM, 1, True, False),
        ("always", "cpu", 1, 1, False, True),
        ("never", "cuda", 10 * COMPILE_FROM, 1, False, False),
    ],
)
def test_when_a_loss_is_compiled(
    asked: str, device: str, steps: int, micro_batches: int, again: bool, wanted: bool
) -> None:
    """Of itself on a GPU alone, for enough forward passes to repay it; as the plan says otherwise."""
    chosen = options(compile=asked, micro_batches=micro_batches, gradient_checkpointing=again)
    assert compiles(chosen, torch.device(device), steps) is wanted


def test_what_is_compiled_is_not_computed_again() -> None:
    """The two exclude one another, wherever a plan says them."""
    with pytest.raises(PlanError) as caught:
        executed(functional("gpt2"), options(compile="always", gradient_checkpointing=True), 1, CPU)
    assert str(caught.value) == (
        "fit: compile: always and gradient_checkpointing: true exclude one another; leave out one"
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's tracer looks at it
def test_a_compiled_loss_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's compiler traces gives the loss and the gradients that were asked for; no code is generated."""
    model = functional("gpt2")
    leaves, batch = leaves_of(model), batch_for("gpt2")
    compile_ = torch.compile
    graphs: list[Any] = []

    def traced(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", lambda loss: compile_(loss, backend=traced))
    loss = executed(model, options(compile="always"), 1, CPU).loss(leaves, batch)
    found = torch.autograd.grad(loss, list(leaves.values()))
    assert graphs
    plain = model.loss(leaves, batch)
    wanted = torch.autograd.grad(plain, list(leaves.values()))
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def test_a_compiler_that_fails_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says what to do; torch shows the reason at its first line."""

    def broken(module: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda loss: compile_(loss, backend=broken))
    model = functional("gpt2")
    with pytest.raises(PlanError, match=r"^fit\.compile: torch cannot compile the loss: .*; use never$"):
        executed(model, options(compile="always"), 1, CPU).loss(leaves_of(model), batch_for("gpt2"))
