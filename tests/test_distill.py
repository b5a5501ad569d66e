"""The small model as a teacher: the divergence as PyTorch has it, over what is predicted, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec import PlanError
from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from tests.image_data import config as image_config
from tests.image_data import pictures
from tests.tiny_checkpoints import CONFIGS, plan_file, saved

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from torch import Tensor

from ligo_torch import fit as fitting
from ligo_torch.distill import Distilled, divergence, taught
from ligo_torch.fit import gradients
from ligo_torch.race import TorchRacer
from ligo_torch.text import IGNORED

torch.set_num_threads(1)  # test runs share the cores

SEQ_LEN = 12

TEXT = "".join(f"{n} + {n + 1} = {2 * n + 1}, and that is {'even' if n % 2 else 'odd'}.\n" for n in range(200))

CLASSES = {
    "bert": "BertForMaskedLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassificationWithTeacher",
}

OF_TEXT = ("bert", "gpt2", "llama")


def prepare(directory: Path, kind: str, target: dict[str, int] | None = None, **fit: Any) -> Path:
    """A small model, its data, and a plan that fits one or more layers of it."""
    if kind in OF_TEXT:
        positions = {"n_positions" if kind == "gpt2" else "max_position_embeddings": SEQ_LEN}
        settled = {**CONFIGS[kind], "vocab_size": 257, **positions}
        (directory / "text.txt").write_text(TEXT, "utf-8")
        data: dict[str, Any] = {"path": "text.txt", "tokenizer": "bytes", "seq_len": SEQ_LEN, "batch_size": 4}
        layers = 2
    else:
        settled = image_config(CLASSES[kind])
        images, labels = pictures()
        np.savez(directory / "data.npz", images=images, labels=labels)
        data, layers = {"kind": "images", "path": "data.npz", "batch_size": 4}, settled["num_hidden_layers"]
    saved(directory / "small", CLASSES[kind], settled)
    top = {key: fit.pop(key) for key in ("compare",) if key in fit}
    options = {"steps": 3, "heldout_batches": 2, "device": "cpu", "data": {**data, **fit.pop("data", {})}, **fit}
    grown = {"num_hidden_layers": 2 * layers, **(target or {})}
    width = {"width": "zero_pad"} if target else {}
    return plan_file(directory, target=grown, operator={"depth": "noisy_stack", **width}, fit=options, **top)


def parts(path: Path) -> tuple[Distilled, Any, Any]:
    """The distilled model of a plan, its operator and its batches."""
    task = fit_task(load_job(path))
    model, learnable, batches = fitting.prepare(task)
    found = taught(task, model, batches)
    assert found is not None
    return found, learnable, batches


def plainly(small: Tensor, large: Tensor, temperature: float) -> Tensor:
    """The divergence as it stands in the paper, position by position."""
    p, q = torch.softmax(small / temperature, -1), torch.softmax(large / temperature, -1)
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()


def predicted(kind: str, batch: Any, logits: Tensor) -> Tensor:
    """What of a model's logits is predicted."""
    if kind not in OF_TEXT:
        return logits
    if kind == "bert":
        return torch.cat([row[labels != IGNORED] for row, labels in zip(logits, batch["labels"], strict=True)])
    return logits[:, :-1].reshape(-1, logits.shape[-1])


@pytest.mark.parametrize("kind", CLASSES)
def test_the_loss_is_the_tasks_and_the_teachers(kind: str, tmp_path: Path) -> None:
    """The teacher as Transformers loads it from the small checkpoint; the divergence by ``kl_div``, plainly."""
    path = prepare(tmp_path, kind, distill={"weight": 0.3, "temperature": 3.0})
    model, learnable, batches = parts(path)
    (batch,) = batches.train(0)
    teacher = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path / "small").eval()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        weights = model.parameters(learnable.weights())
        small = predicted(kind, batch, teacher(**inputs).logits)
        task, logits = model.student.run(weights, batch)
        large = predicted(kind, batch, logits)
        assert len(small) == model.predicted(batch)
        by_torch = 9.0 * torch.nn.functional.kl_div(
            torch.log_softmax(large / 3.0, -1), torch.softmax(small / 3.0, -1), reduction="batchmean"
        )
        assert by_torch == pytest.approx(float(plainly(small, large, 3.0)), rel=1e-4)
        found = float(model.loss(weights, batch))
    assert float(by_torch) > 1e-3  # otherwise nothing is compared
    assert found == pytest.approx(0.7 * float(task) + 0.3 * float(by_torch), rel=1e-4)


def test_new_words_are_left_out(tmp_path: Path) -> None:
    """The teacher does not know them: the divergence is over the words that both have, the loss over all."""
    path = prepare(tmp_path, "gpt2", {"vocab_size": 300}, distill={"weight": 1.0, "temperature": 2.0})
    model, learnable, batches = parts(path)
    (batch,) = batches.train(0)
    with torch.no_grad():
        weights = model.parameters(learnable.weights())
        small = predicted("gpt2", batch, model.teacher.run(model.weights, batch)[1])
        large = predicted("gpt2", batch, model.student.run(weights, batch)[1])
        assert (small.shape[-1], large.shape[-1]) == (257, 300)
        assert float(model.loss(weights, batch)) == pytest.approx(float(plainly(small, large[:, :257], 2.0)), rel=1e-4)


def test_a_start_that_keeps_the_function_has_no_divergence(tmp_path: Path) -> None:
    """And it is never below zero: twins of one another."""
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert float(divergence(logits, logits + 3.0, 2.0)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(logits, logits.flip(0), 2.0)) > 0.1
    assert float(divergence(logits, logits * 1.01, 1e3)) >= 0


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_micro_batches_and_plain_differentiation_agree(kind: str, tmp_path: Path) -> None:
    """The teacher gets no gradient, the operator that of the whole loss, however the batch is cut."""
    path = prepare(tmp_path, kind, distill={"weight": 0.5})
    model, learnable, batches = parts(path)
    (batch,) = batches.train(0)
    loss = gradients(model, learnable, [batch])
    plain = model.loss(model.parameters(learnable.weights()), batch)
    wanted = torch.autograd.grad(plain, learnable.parameters, allow_unused=True, materialize_grads=True)
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learnable.parameters]
    assert loss == pytest.approx(float(plain.detach()), rel=1e-5)
    assert max(float(g.abs().max()) for g in wanted) > 1e-3
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found, wanted, strict=True))
    assert not any(value.requires_grad for value in model.weights.values())
    cut = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(4)]
    for parameter in learnable.parameters:
        parameter.grad = None
    assert gradients(model, learnable, cut) == pytest.approx(loss, rel=1e-5)
    again = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learnable.parameters]
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(again, wanted, strict=True))


def test_heldout_losses_stay_the_tasks(tmp_path: Path) -> None:
    """With and without a teacher a fit starts at the same held-out loss; what is learned differs."""
    plain = ligo_spec.fit(prepare(tmp_path, "gpt2"), tmp_path / "a.safetensors")
    distilled = ligo_spec.fit(prepare(tmp_path, "gpt2", distill={}), tmp_path / "b.safetensors")
    again = ligo_spec.fit(prepare(tmp_path, "gpt2", distill={}), tmp_path / "c.safetensors")
    assert distilled.heldout_before == plain.heldout_before
    assert distilled.losses[0] != plain.losses[0]
    assert distilled.heldout_after != plain.heldout_after
    assert again.losses == distilled.losses


def test_a_teacher_brings_the_large_model_nearer(tmp_path: Path) -> None:
    """With the teacher's loss alone, what is minimised falls by far more than noise."""
    path = prepare(tmp_path, "gpt2", steps=60, learning_rate=0.02, distill={"weight": 1.0, "temperature": 1.0})
    found = ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert np.mean(found.losses[-5:]) < 0.5 * np.mean(found.losses[:5])


def test_windows_that_the_teacher_cannot_take_are_refused(tmp_path: Path) -> None:
    """The large model has more positions than the small one."""
    target = {"max_position_embeddings": 2 * SEQ_LEN}
    path = prepare(tmp_path, "gpt2", target, distill={}, data={"seq_len": 2 * SEQ_LEN})
    with pytest.raises(PlanError) as caught:
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert str(caught.value) == "fit.data.seq_len 24 is more than the model's 12 positions"


@pytest.mark.parametrize("kind", ["gpt2", "vit"])
def test_a_lesson_is_counted_in_a_comparison(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's forward pass: a third of a step of training of the small model."""
    monkeypatch.setattr("ligo_spec.racing.load_plugin", lambda group, name: TorchRacer)
    fit = {"steps": 2, "learn": {"structure": "start"}}
    candidates = [
        {"depth": "noisy_stack", "fit": fit, "name": "fitted"},
        {"depth": "noisy_stack", "fit": {**fit, "distill": {"weight": 0.5}}, "name": "distilled"},
    ]
    compare = {"budget": {"steps": 9}, "candidates": candidates, "learning_rates": [1e-3], "heldout_batches": 2}
    found = ligo_spec.compare(prepare(tmp_path, kind, compare=compare))
    cost: Callable[[str], float] = lambda name: next(row.fit_flops for row in found.rows if row.name == name)  # noqa: E731
    step = found.budget_flops / found.budget_steps
    lesson = (cost("distilled") - cost("fitted")) / 2
    assert 0.1 * step / 3 < lesson < step / 3  # the small model has half the layers, and the same head
