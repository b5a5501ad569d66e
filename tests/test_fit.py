"""The fit: that it learns, what it learns and what it leaves alone, that it is repeatable, and how it fails."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ligo_spec
from ligo_spec import InputError, LigoError, NumericalError, PlanError
from ligo_spec.cli import run
from ligo_spec.family import load_family
from ligo_spec.family_sizes import small_configs
from ligo_spec.fitting import FitTask
from ligo_spec.grow import fit_task
from ligo_spec.job import load_job, open_model
from ligo_spec.maps import arrays_of, dense
from ligo_spec.operator import Operator
from ligo_spec.operator_file import load_operator
from ligo_spec.plan import Fit
from tests.family_table import ROWS
from tests.tiny_checkpoints import CONFIGS, TWICE, config_of, plan_file, same_bits, saved, tensors_of, tree

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from ligo_torch import fit as fitting
from ligo_torch.fit import Batches, evaluate, gradients, learning_rate
from ligo_torch.huggingface import FunctionalModel, choose_objective
from ligo_torch.learnable import LearnableOperator
from ligo_torch.text import IGNORED

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

CLASSES = {"bert": "BertForMaskedLM", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}

HEAD = "bias transform.dense.weight transform.dense.bias transform.LayerNorm.weight transform.LayerNorm.bias"

POSITIONS = 16

DEEPER = {"num_hidden_layers": 3}

TEXT = "".join(f"{n} + {n + 1} = {2 * n + 1}, and that is {'even' if n % 2 else 'odd'}.\n" for n in range(200))


OF_TEXT = sorted(name for name in ROWS if "vocab_size" in load_family(name).sizes)

TEXT_FAMILIES = [name for name in OF_TEXT if len(load_family(name).stacks) == 1]
"""Those with a decoder beside an encoder have no objective yet: their loss needs pairs of texts, or sounds."""


def config(kind: str, **changes: Any) -> dict[str, Any]:
    """A tiny config whose tokens are bytes, and one more for the mask; small values, so that losses are moderate."""
    positions = {"n_positions" if kind == "gpt2" else "max_position_embeddings": POSITIONS}
    return {**CONFIGS[kind], "vocab_size": 257, **positions, **changes}


def prepare(directory: Path, kind: str, *, class_name: str | None = None, **fit: Any) -> Path:
    """A small model, a text, and a plan that fits LiGO's operator to twice the width and one more layer."""
    saved(directory / "small", class_name or CLASSES[kind], config(kind))
    (directory / "text.txt").write_text(TEXT, "utf-8")
    return plan(directory, kind, **fit)


def plan(directory: Path, kind: str, *, name: str = "plan.yaml", **fit: Any) -> Path:
    """Another plan beside the first."""
    top = {key: fit.pop(key) for key in ("seed", "checks", "operator", "target") if key in fit}
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": POSITIONS, "batch_size": 8, **fit.pop("data", {})}
    options = {"steps": 2, "heldout_batches": 2, "device": "cpu", "data": data, **fit}
    top = {"target": TWICE[kind] | DEEPER, "operator": {"preset": "ligo"}, **top}
    return plan_file(directory, name, fit=options, **top)


def task_of(path: Path) -> FitTask:
    """What the fit of a plan works on."""
    return fit_task(load_job(path))


def parts_of(task: FitTask, dtype: Any = torch.float32) -> tuple[FunctionalModel, LearnableOperator, Batches]:
    """Model, operator and batches of a fit, computing in ``dtype``."""
    model, learnable, batches = fitting.prepare(task)
    model.model.to(dtype)
    for parameter in learnable.parameters:
        parameter.data = parameter.data.to(dtype)
    learnable._small = {name: value.to(dtype) for name, value in learnable._small.items()}
    return model, learnable, batches


def learned(learnable: LearnableOperator) -> list[Any]:
    """The gradients of all parameters; zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learnable.parameters]


def close(found: list[Any], wanted: list[Any], dtype: Any) -> bool:
    """Whether gradients agree to a thousand roundings of the largest."""
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    assert scale > 1e-4  # otherwise nothing is compared
    bound = 1000 * torch.finfo(dtype).eps * scale
    return all(float((a - b).abs().max()) <= bound for a, b in zip(found, wanted, strict=True))


def arrays_by_name(operator: Operator) -> dict[Any, Any]:
    """Every float array of an operator that a fit may learn, by its map or by the tensors whose layers it mixes."""
    (term,) = operator.terms
    maps = {
        (name, place, number): array
        for name, choices in term.maps.items()
        for place, map_ in enumerate(choices)
        for number, array in enumerate(arrays_of(map_))
    }
    return maps | {("depth", template): mix for template, mix in term.depth.items()}


def used_arrays(task: FitTask) -> set[Any]:
    """Those of ``arrays_by_name`` that some tensor of the small model touches."""
    (term,), family = task.operator.terms, task.growth.small.family
    templates = task.binding.templates()
    maps = {term.spaces[dim.space].of(dim.role) for name in templates for dim in family.tensors[name].touches}
    return {
        key for key in arrays_by_name(task.operator) if (key[1] in templates if key[0] == "depth" else key[0] in maps)
    }


# --- that it learns ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """A growth with a fit, and what was seen of it."""

    kind: str
    plan: Path
    grown: ligo_spec.Grown
    records: list[Mapping[str, Any]]
    before: Mapping[str, str]

    @property
    def directory(self) -> Path:
        """Where plan and small model lie."""
        return self.plan.parent

    @property
    def result(self) -> ligo_spec.FitResult:
        """What the fit gave."""
        assert self.grown.fit is not None
        return self.grown.fit


@pytest.fixture(scope="module", params=sorted(CLASSES))
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """One growth with a fit of eighty steps, for each family."""
    directory = tmp_path_factory.mktemp(request.param)
    path = prepare(directory, request.param, steps=80, learning_rate=0.02, checks={"reference": True})
    before, records = tree(directory / "small"), list[Mapping[str, Any]]()
    grown = ligo_spec.grow(path, events=ligo_spec.Events(fit=records.append))
    return Fitted(request.param, path, grown, records, before)


def test_a_fit_lowers_the_heldout_loss(fitted: Fitted) -> None:
    """By far more than noise; and the start's loss is what the start gives without any fit."""
    result = fitted.result
    assert result.heldout_after < 0.8 * result.heldout_before
    assert np.mean(result.losses[-5:]) < 0.8 * np.mean(result.losses[:5])
    assert result.heldout_before == pytest.approx(evaluate(task_of(fitted.plan)), rel=1e-6)


def test_the_small_model_stays_as_it_was(fitted: Fitted) -> None:
    """Every file of it, bit for bit."""
    assert tree(fitted.directory / "small") == fitted.before


def test_the_fitted_operator_differs_from_its_start_in_all_that_is_used(fitted: Fitted) -> None:
    """All maps and all depth rows of tensors that the model has are learned; the others stay, bit for bit."""
    task = task_of(fitted.plan)
    start, found = arrays_by_name(task.operator), arrays_by_name(fitted.result.operator)
    assert start.keys() == found.keys()
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in found.values())
    kept = {name for name in start if np.array_equal(start[name].astype(np.float32), found[name])}
    assert kept == start.keys() - used_arrays(task)


def test_the_numpy_backend_gives_the_weights_that_were_fitted(fitted: Fitted) -> None:
    """The written checkpoint holds what the learnable operator computes, up to float32 rounding."""
    task, large = task_of(fitted.plan), open_model(fitted.grown.path)
    _, learnable, _ = fitting.prepare(replace(task, operator=fitted.result.operator))
    weights = learnable.weights()
    names = large.binding.sources().keys()
    assert weights.keys() == names
    for name in names:
        wanted, found = weights[name].detach().numpy(), large.read(name)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max()), name


def test_the_heldout_loss_is_that_of_the_written_checkpoint(fitted: Fitted) -> None:
    """Transformers, loading what was written and nothing of ours, gets the loss that the fit has reported."""
    model, info = getattr(transformers, CLASSES[fitted.kind]).from_pretrained(
        fitted.grown.path, output_loading_info=True
    )
    assert not any(info.values()), info
    functional, _, batches = fitting.prepare(task_of(fitted.plan))
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches.heldout():
            predicted = functional.predicted(batch)
            total += float(model.eval()(**batch).loss) * predicted
            count += predicted
    assert total / count == pytest.approx(fitted.result.heldout_after, abs=1e-5)


def test_the_log_has_a_record_a_step_and_both_heldout_losses(fitted: Fitted) -> None:
    """The same records in ``fit_log.jsonl`` and for the caller, under the documented keys."""
    lines = (fitted.grown.path / "fit_log.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == fitted.records
    first, *steps, last = fitted.records
    result, options = fitted.result, task_of(fitted.plan).options
    assert first == {"event": "heldout", "step": 0, "loss": result.heldout_before}
    assert last == {"event": "heldout", "step": 80, "loss": result.heldout_after}
    keys = {"event", "step", "steps", "loss", "learning_rate", "gradient_norm"}
    assert all(record.keys() == keys and record["event"] == "step" for record in steps)
    assert [(record["step"], record["steps"]) for record in steps] == [(n + 1, 80) for n in range(80)]
    assert tuple(record["loss"] for record in steps) == result.losses
    assert [record["learning_rate"] for record in steps] == [learning_rate(options, n) for n in range(80)]
    assert all(record["gradient_norm"] > 0 for record in steps)


def test_the_manifest_says_what_the_fit_gave(fitted: Fitted) -> None:
    """Its losses, and how many numbers it learned: as many as ``explain`` has foretold."""
    manifest = json.loads((fitted.grown.path / "growth_manifest.json").read_text("utf-8"))
    result = fitted.result
    assert manifest["fit"] == {
        "heldout_before": result.heldout_before,
        "heldout_after": result.heldout_after,
        "steps": 80,
        "parameters": result.parameters,
        "threads": torch.get_num_threads(),
    }
    assert result.parameters == ligo_spec.explain(fitted.plan).learned


@pytest.mark.parametrize("kind", CONFIGS)
def test_learning_two_sided_from_a_lossless_start(kind: str, tmp_path: Path) -> None:
    """``fit.learn``: whole matrices, ``A`` and ``B`` apart, from copies: it learns; what is frozen does not move."""
    learn = {"width": "two_sided", "structure": "dense", "gains": "vector", "depth": "block", "freeze": ["ffn"]}
    path = prepare(tmp_path, kind, steps=6, operator={"width": "hypercloning", "depth": "stack"}, learn=learn)
    task = task_of(path)
    assert count(task) == ligo_spec.explain(path).learned
    result = fitting.fit(task, lambda record: None)
    assert result.heldout_after < result.heldout_before
    before, after = task.operator.main, result.operator.main
    for name, choices in before.maps.items():
        stays = name.startswith("ffn") or not arrays_of(choices[0]) or name not in used(task)
        moved = not all(np.array_equal(dense(a).astype(np.float32), dense(b).astype(np.float32))
                        for a, b in zip(choices, after.maps[name], strict=True))  # fmt: skip
        assert moved != stays, name


def count(task: FitTask) -> int:
    """How many numbers a fit learns."""
    _, learnable, _ = fitting.prepare(task)
    return sum(parameter.numel() for parameter in learnable.parameters)


def used(task: FitTask) -> set[str]:
    """Names of the maps that some tensor of the small model uses."""
    term, tensors = task.operator.main, task.growth.small.family.tensors
    return {term.spaces[dim.space].of(dim.role) for name in task.binding.templates() for dim in tensors[name].touches}


def test_a_fit_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    """At the key that leaves nothing."""
    path = prepare(tmp_path, "gpt2", learn={"width": "none", "depth": "none"})
    with pytest.raises(PlanError, match=r"fit\.learn: nothing is left to learn"):
        task_of(path)


def test_a_tied_map_stays_one_parameter(fitted: Fitted) -> None:
    """One parameter a named array, however many spaces and roles use it; what was tied is tied afterwards."""
    task = task_of(fitted.plan)
    _, learnable, _ = fitting.prepare(task)
    (term,), (after,) = task.operator.terms, fitted.result.operator.terms
    named = sum(array.size for array in arrays_by_name(task.operator).values())
    uses = [getattr(maps, role) for maps in term.spaces.values() for role in ("out", "in_", "gain")]
    assert len(set(uses)) < len(uses)  # LiGO ties
    assert sum(parameter.numel() for parameter in learnable.parameters) == named == fitted.result.parameters
    assert after.spaces == term.spaces
    residual = after.spaces["residual"]
    assert after.maps[residual.out] is after.maps[residual.in_]
    stored = load_operator(fitted.grown.path / "operator.safetensors")
    assert stored.terms[0].spaces == term.spaces
    assert same_bits(arrays_by_name(stored), arrays_by_name(fitted.result.operator))


# --- gradients --------------------------------------------------------------------------------------------------------

PRECISIONS = [("bert", "float64"), ("gpt2", "float32"), ("llama", "float32")]
"""Transformers computes causal losses, and Llama's norms, in float32, whatever the weights are."""


@pytest.mark.parametrize(("kind", "precision"), PRECISIONS)
def test_gradients_are_those_of_plain_differentiation(kind: str, precision: str, tmp_path: Path) -> None:
    """Leaves and one pull-back give what differentiating through model and operator at once gives."""
    dtype = getattr(torch, precision)
    model, learnable, batches = parts_of(task_of(prepare(tmp_path, kind)), dtype)
    (batch,) = batches.train(0)
    loss = gradients(model, learnable, [batch])
    plain = model.loss(model.parameters(learnable.weights()), batch)
    wanted = torch.autograd.grad(plain, learnable.parameters, allow_unused=True, materialize_grads=True)
    assert loss == pytest.approx(float(plain.detach()), rel=1000 * torch.finfo(dtype).eps)
    assert close(learned(learnable), list(wanted), dtype)


@pytest.mark.parametrize(("kind", "precision"), PRECISIONS)
def test_micro_batches_give_the_gradient_of_the_whole_batch(kind: str, precision: str, tmp_path: Path) -> None:
    """Also where they predict different numbers of tokens, as masked ones do."""
    dtype, task = getattr(torch, precision), task_of(prepare(tmp_path, kind))
    found = []
    for parts in (1, 8):
        options = task.options.model_copy(update={"micro_batches": parts})
        model, learnable, batches = parts_of(replace(task, options=options), dtype)
        micro = batches.train(0)
        assert len(micro) == parts
        found.append((gradients(model, learnable, micro), learned(learnable)))
    if kind == "bert":
        assert len({model.predicted(batch) for batch in micro}) > 1
    assert found[0][0] == pytest.approx(found[1][0], rel=1000 * torch.finfo(dtype).eps)
    assert close(found[1][1], found[0][1], dtype)


def test_gradients_agree_with_differences_of_the_loss(tmp_path: Path) -> None:
    """Along a random direction, in float64: the one check that knows nothing of automatic differentiation."""
    model, learnable, batches = parts_of(task_of(prepare(tmp_path, "bert")), torch.float64)
    micro = batches.train(0)
    gradients(model, learnable, micro)
    generator, step = torch.Generator().manual_seed(0), 1e-6
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in learnable.parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(learned(learnable), direction, strict=True))
    losses = []
    for sign in (1, -2):
        for parameter, way in zip(learnable.parameters, direction, strict=True):
            parameter.data += sign * step * way
        with torch.no_grad():
            losses.append(float(model.loss(model.parameters(learnable.weights()), micro[0])))
    assert abs(slope) > 1e-2
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_the_small_weights_have_no_gradient(kind: str, tmp_path: Path) -> None:
    """They are frozen, and so are the library model's own parameters; every parameter of the operator has one."""
    task = task_of(prepare(tmp_path, kind))
    model, learnable, batches = parts_of(task)
    small = {name: value.clone() for name, value in learnable._small.items()}
    gradients(model, learnable, batches.train(0))
    frozen = [*learnable._small.values(), *model.model.parameters()]
    assert not any(value.requires_grad for value in frozen)
    assert all(value.grad is None for value in frozen)
    assert all(torch.equal(learnable._small[name], small[name]) for name in small)
    used = sum(arrays_by_name(task.operator)[name].size for name in used_arrays(task))
    assert sum(p.numel() for p in learnable.parameters if p.grad is not None) == used


# --- repeatable -------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    """Of the whole operator; another seed gives others, though it starts the same."""
    start = {"preset": "stackbert"}
    first = prepare(tmp_path, "gpt2", seed=3, operator=start, target=DEEPER)
    other = plan(tmp_path, "gpt2", name="other.yaml", seed=4, operator=start, target=DEEPER)
    assert same_bits(arrays_by_name(task_of(first).operator), arrays_by_name(task_of(other).operator))
    one, two, three = (
        arrays_by_name(ligo_spec.fit(path, tmp_path / f"{number}.safetensors").operator)
        for number, path in enumerate([first, first, other])
    )
    assert same_bits(one, two)
    assert not same_bits(one, three)
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_fit_and_apply_give_what_grow_gives(kind: str, tmp_path: Path) -> None:
    """``ligo fit PLAN -o OP`` and ``ligo apply --operator OP``: weights, config and operator, bit for bit."""
    path, operator = prepare(tmp_path, kind), tmp_path / "op.safetensors"
    assert run(["grow", str(path), "--json"]) == 0
    assert run(["fit", str(path), "-o", str(operator), "--json"]) == 0
    assert run(["apply", str(path), "--operator", str(operator), "--output", str(tmp_path / "applied"), "--json"]) == 0
    grown, applied = tmp_path / "grown", tmp_path / "applied"
    assert same_bits(tensors_of(applied), tensors_of(grown))
    assert config_of(applied) == config_of(grown)
    assert operator.read_bytes() == (grown / "operator.safetensors").read_bytes()
    assert (applied / "operator.safetensors").read_bytes() == operator.read_bytes()
    assert (tmp_path / "op.safetensors.jsonl").read_bytes() == (grown / "fit_log.jsonl").read_bytes()


def test_data_of_the_command_line_replaces_the_plans(tmp_path: Path) -> None:
    """``--data`` names the text to fit on; the plan's own need not be there then."""
    path = prepare(tmp_path, "gpt2")
    wanted = ligo_spec.fit(path, tmp_path / "wanted.safetensors")
    moved = (tmp_path / "text.txt").rename(tmp_path / "moved.txt")
    with pytest.raises(InputError, match=r"text\.txt: no such file$"):
        ligo_spec.fit(path, tmp_path / "refused.safetensors")
    found = ligo_spec.fit(path, tmp_path / "found.safetensors", data=[moved])
    assert found.losses == wanted.losses


# --- options ----------------------------------------------------------------------------------------------------------


def options(**changes: Any) -> Fit:
    """The options of a fit."""
    return Fit.model_validate({"data": {"path": "text.txt"}, **changes})


@pytest.mark.parametrize("warmup", [0, 5, 10])
def test_the_learning_rate_warms_up_and_falls_to_a_tenth(warmup: int) -> None:
    """Linear up to the peak, then half a cosine, whose end is a tenth of the peak."""
    fit = options(steps=100, warmup_steps=warmup, learning_rate=2.0)
    rates = [learning_rate(fit, step) for step in range(101)]
    assert rates[:warmup] == pytest.approx([2.0 * (step + 1) / (warmup + 1) for step in range(warmup)])
    assert max(rates) == rates[warmup] == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.2)
    middle = (warmup + 100) / 2
    assert learning_rate(fit, int(middle)) == pytest.approx(
        0.2 + 0.9 * (1 + math.cos(math.pi * (int(middle) - warmup) / (100 - warmup)))
    )
    falling = rates[warmup:]
    assert all(later < earlier for earlier, later in pairwise(falling))


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("GPT2LMHeadModel", "causal_lm"),
        ("GPT2DoubleHeadsModel", "causal_lm"),
        ("LlamaForCausalLM", "causal_lm"),
        ("BertForMaskedLM", "masked_lm"),
        ("BertForPreTraining", "masked_lm"),
        ("ViTForImageClassification", "image_classification"),
        ("DeiTForImageClassificationWithTeacher", "image_classification"),
    ],
)
def test_auto_takes_the_objective_from_the_class(name: str, objective: str) -> None:
    """As the checkpoint's config names it; what the plan says wins."""
    assert choose_objective("auto", [name]) == objective
    assert choose_objective("causal_lm", [name]) == "causal_lm"
    assert choose_objective("masked_lm", [name]) == "masked_lm"


@pytest.mark.parametrize("asked", ["auto", "causal_lm", "masked_lm"])
@pytest.mark.parametrize("family", sorted(set(OF_TEXT) - set(TEXT_FAMILIES)))
def test_models_of_two_stacks_have_no_objective(family: str, asked: str) -> None:
    """Whatever the plan and the class say: the labels of a decoder by itself are not those of a causal model."""
    with pytest.raises(PlanError) as caught:
        choose_objective(asked, [ROWS[family].head, "WhisperForCausalLM"], load_family(family).stacks)
    assert str(caught.value) == (
        "fit.objective: models of several stacks of layers (encoder.layers, decoder.layers) have no objective yet; "
        "causal_lm and masked_lm and image_classification are for models of one"
    )


@pytest.mark.parametrize("names", [[], ["BertModel"], ["GPT2ForSequenceClassification"]])
def test_auto_refuses_to_guess(names: list[str]) -> None:
    """A class without a language-modelling head does not tell."""
    with pytest.raises(PlanError) as caught:
        choose_objective("auto", names)
    assert str(caught.value) == (
        f"fit.objective: auto cannot tell from architectures {names}; say causal_lm or masked_lm or "
        "image_classification"
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_heldout_text_is_not_fitted_on(kind: str, tmp_path: Path) -> None:
    """Held-out losses are of the held-out text alone, steps of the other alone; both are the same at every call."""
    path = prepare(tmp_path, kind, heldout_batches=3, data={"heldout": "heldout.txt"})
    (tmp_path / "text.txt").write_text("x" * 100, "utf-8")
    (tmp_path / "heldout.txt").write_text("y" * 100, "utf-8")
    _, _, batches = parts_of(task_of(path))
    heldout, steps = list(batches.heldout()), [batch for step in range(3) for batch in batches.train(step)]
    for found, letter in ((heldout, "y"), (steps, "x")):
        labels = torch.cat([batch["labels"] for batch in found])
        assert len(found) == 3
        assert set(labels[labels != IGNORED].tolist()) == {ord(letter)}
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(heldout, batches.heldout(), strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_causal_window_predicts_all_but_its_first_token(kind: str, tmp_path: Path) -> None:
    """A loss per token counts the tokens that have one."""
    model, _, batches = parts_of(task_of(prepare(tmp_path, kind)))
    assert [model.predicted(batch) for batch in batches.train(0)] == [8 * (POSITIONS - 1)]


def test_threads_are_used_and_recorded(tmp_path: Path) -> None:
    """Results are bit-equal only at equal numbers of them, so the result says how many there were."""
    threads = torch.get_num_threads()
    try:
        wanted = 1 if threads > 1 else 2
        found = ligo_spec.fit(prepare(tmp_path, "gpt2", steps=1, threads=wanted), tmp_path / "op.safetensors")
        assert found.threads == torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_fit_on_a_gpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    """Up to rounding; the operator comes back as NumPy arrays."""
    on_cpu = ligo_spec.fit(prepare(tmp_path, "gpt2"), tmp_path / "cpu.safetensors")
    on_gpu = ligo_spec.fit(plan(tmp_path, "gpt2", name="gpu.yaml", device="cuda"), tmp_path / "gpu.safetensors")
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-3)
    assert all(isinstance(array, np.ndarray) for array in arrays_by_name(on_gpu.operator).values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Never a silent fall back to the CPU."""
    message = refusal(PlanError, prepare(tmp_path, "gpt2", device="cuda"))
    assert message == "device 'cuda': torch finds no CUDA device; use cpu or auto"


# --- failures ---------------------------------------------------------------------------------------------------------


def refusal(kind: type[LigoError], path: Path) -> str:
    """What the refusal of a plan's growth says; nothing is written, by ``grow`` or by ``fit``."""
    directory = path.parent
    before = tree(directory)
    with pytest.raises(kind) as caught:
        ligo_spec.grow(path)
    with pytest.raises(kind) as again:
        ligo_spec.fit(path, directory / "op.safetensors")
    assert str(again.value) == str(caught.value)
    assert tree(directory) == before
    return str(caught.value)


def test_a_fit_that_diverges_leaves_nothing(tmp_path: Path) -> None:
    """The loss stops being a number at the second step: where it happened, and what helps."""
    message = refusal(NumericalError, prepare(tmp_path, "gpt2", steps=5, warmup_steps=0, learning_rate=1e30))
    assert message == (
        "the fit diverged at step 2 of 5: loss nan, gradient norm nan, learning rate 9.14e+29; lower fit.learning_rate "
        "(post-norm models need 2-3 times less)"
    )


def test_a_fit_whose_last_step_diverges_leaves_nothing(tmp_path: Path) -> None:
    """No loss of a step shows it, only the held-out loss; the message does not blame the start."""
    message = refusal(NumericalError, prepare(tmp_path, "gpt2", steps=1, warmup_steps=0, learning_rate=1e30))
    assert message == "the held-out loss after the fit is nan; lower fit.learning_rate"


def test_a_divergence_exits_with_five(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says so in one line, and leaves nothing."""
    path = prepare(tmp_path, "gpt2", steps=5, warmup_steps=0, learning_rate=1e30)
    before = tree(tmp_path)
    capsys.readouterr()  # Transformers shows a bar where the small model is saved
    for command in (["grow", str(path)], ["fit", str(path), "-o", str(tmp_path / "op.safetensors")]):
        assert run(command) == 5
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: the fit diverged at step 2 of 5: ")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_a_poisoned_weight_is_found_before_the_first_step(kind: str, tmp_path: Path) -> None:
    """One value of the small model that is not a number."""
    path = prepare(tmp_path, kind)
    file = tmp_path / "small" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "attn.c_proj.weight" in name or "o_proj" in name or "query" in name)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})
    message = refusal(NumericalError, path)
    assert message == "the held-out loss is nan; the operator's start does not give a working model"


@pytest.mark.parametrize(
    ("kind", "class_name", "objective", "missing"),
    [
        ("llama", "LlamaModel", "causal_lm", "lm_head.weight"),
        (
            "bert",
            "BertModel",
            "masked_lm",
            ", ".join(f"cls.predictions.{name}" for name in HEAD.split()),
        ),
    ],
)
def test_a_missing_head_is_refused(kind: str, class_name: str, objective: str, missing: str, tmp_path: Path) -> None:
    """A loss needs it, and a random one would teach the operator nothing."""
    message = refusal(InputError, prepare(tmp_path, kind, class_name=class_name, objective=objective))
    assert message == f"the checkpoint has no {missing}, which {objective} needs"


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    """GPT-2 without its head has it all the same: the embedding."""
    found = ligo_spec.fit(
        prepare(tmp_path, "gpt2", class_name="GPT2Model", objective="causal_lm"), tmp_path / "op.safetensors"
    )
    assert math.isfinite(found.heldout_after)


def test_micro_batches_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    """Before anything is computed."""
    message = refusal(PlanError, prepare(tmp_path, "gpt2", micro_batches=3))
    assert message == "fit.micro_batches 3 does not divide fit.data.batch_size 8"


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_windows_longer_than_the_model_has_positions_are_refused(kind: str, tmp_path: Path) -> None:
    """The model has no embedding for the places beyond."""
    message = refusal(PlanError, prepare(tmp_path, kind, data={"seq_len": POSITIONS + 1}))
    assert message == f"fit.data.seq_len {POSITIONS + 1} is more than the model's {POSITIONS} positions"


def test_rotary_positions_bear_any_window(tmp_path: Path) -> None:
    """Llama has no table of positions: the twin of the refusal."""
    path = prepare(tmp_path, "llama", data={"seq_len": POSITIONS + 1})
    assert math.isfinite(ligo_spec.fit(path, tmp_path / "op.safetensors").heldout_after)


def test_a_masked_fit_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    """Bytes fill a vocabulary of 256."""
    path = prepare(tmp_path, "bert")
    saved(tmp_path / "small", CLASSES["bert"], config("bert", vocab_size=256))
    assert refusal(PlanError, path) == "fit.objective: masked_lm needs a mask token, and the tokenizer has none"


def test_a_plan_without_a_fit_has_nothing_to_learn(tmp_path: Path) -> None:
    """``ligo fit`` says where the section is missing."""
    saved(tmp_path / "small", CLASSES["gpt2"], config("gpt2"))
    path = plan_file(tmp_path, target=TWICE["gpt2"], operator={"preset": "ligo"})
    with pytest.raises(PlanError, match=r"plan\.yaml:1:1: has no fit section; there is nothing to learn$"):
        ligo_spec.fit(path, tmp_path / "op.safetensors")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["plan.yaml", "small"]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_family_of_text_can_be_fitted(family: str, tmp_path: Path) -> None:
    """LiGO's depth maps on the library's own loss, learned and applied; Transformers loads what is written."""
    declared = load_family(family)
    sizes = {**small_configs(declared)[-1], declared.sizes["vocab_size"].config or "": 257}
    positions = declared.sizes.get("max_position_embeddings")
    if positions is not None:
        sizes[positions.config or ""] = 16
    small = {"model_type": family, **sizes, **ROWS[family].config}
    saved(tmp_path / "small", ROWS[family].head, small)
    (tmp_path / "text.txt").write_text("the small model knows what the large one learns. " * 40, "utf-8")
    count = declared.stacks["layers"].count
    layers = declared.sizes[count].config or count
    partial = any(tensor.not_in for tensor in declared.tensors.values())  # no depth map can repeat a layer there
    data = {"kind": "text", "path": "text.txt", "tokenizer": "bytes", "seq_len": 12, "batch_size": 4}
    plan = plan_file(
        tmp_path,
        target={count: sizes[layers] * (1 if partial else 2)},
        operator={"depth": "noisy_stack"},
        fit={"steps": 3, "data": data, "heldout_batches": 2, "threads": 1},
    )
    found = ligo_spec.grow(plan)
    assert found.fit is not None
    assert found.fit.heldout_after != found.fit.heldout_before
    _, info = getattr(transformers, ROWS[family].head).from_pretrained(found.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
