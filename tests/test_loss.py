"""Learning on a loss of one's own: of a model that Transformers does not have, by the loop that plans use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ligo_spec
from ligo_spec import Growth, PlanError, build_operator
from ligo_spec.job import Small, open_model
from ligo_spec.learning import Learn
from ligo_spec.methods.noisy_stack import NoisyStack
from ligo_spec.operator import Operator
from ligo_spec.plan import CandidateFit, Distill
from tests.family_table import ROWS
from tests.tiny_checkpoints import plan_file

pytest.importorskip("torch")

import torch
from torch import Tensor

from ligo_torch import fit_loss
from tests.cait import Cait

torch.set_num_threads(1)  # test runs share the cores

CONFIG = {
    "model_type": "cait",
    "embed_dim": 12,
    "depth": 2,
    "num_heads": 3,
    "depth_token_only": 1,
    **ROWS["cait"].config,
}

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """A small model without a class in Transformers, what it becomes, and its data."""

    path: Path
    small: Small
    growth: Growth
    start: Operator
    large: Any
    batches: list[Batch]

    def loss(self, params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Cross entropy of the large model's logits."""
        pixels, labels = batch
        out = torch.func.functional_call(self.large, dict(params), (pixels,))
        return torch.nn.functional.cross_entropy(out["logits"], labels)

    def fit(self, **changes: Any) -> ligo_spec.FitResult:
        """On four batches, two held out."""
        options = CandidateFit(steps=30, learning_rate=0.02, learn=Learn(structure="dense"))
        given = {"train": lambda step: [self.batches[step % 4]], "heldout": self.batches[4:], "options": options}
        return fit_loss(self.small, self.growth, self.start, **{"loss": self.loss, **given, "device": "cpu", **changes})


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("loss")
    torch.manual_seed(0)
    Cait(CONFIG).save_pretrained(path / "small")
    small = open_model(path / "small")
    growth = Growth(small.architecture, small.architecture.grown({"num_hidden_layers": 4}))
    start = build_operator(growth, None, NoisyStack())
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(6):
        labels = torch.randint(0, 3, (16,), generator=generator)
        noise = torch.randn(16, 2, 7, 7, generator=generator)
        batches.append((noise + 2.0 * (labels - 1)[:, None, None, None], labels))
    return Setting(path, small, growth, start, Cait({**CONFIG, "depth": 4}), batches)


def test_any_loss_can_be_learned_on(setting: Setting) -> None:
    """It falls by far more than noise, held out too; every step and both held-out losses are told."""
    records: list[Mapping[str, Any]] = []
    found = setting.fit(log=records.append)
    assert found.unit == "a prediction"
    assert found.heldout_after < 0.9 * found.heldout_before
    assert [record["event"] for record in records] == ["heldout", *["step"] * 30, "heldout"]
    assert setting.fit().losses == found.losses


def test_the_loss_is_that_of_the_model_that_is_written(setting: Setting, tmp_path: Path) -> None:
    """The operator, applied by NumPy, gives a checkpoint whose loss is what the fit has reported."""
    found = setting.fit()
    ligo_spec.save_operator(found.operator, tmp_path / "op.safetensors")
    (tmp_path / "small").symlink_to(setting.path / "small")
    plan = plan_file(tmp_path, target={"num_hidden_layers": 4}, operator={"depth": "noisy_stack"})
    grown = ligo_spec.apply(plan, operator=tmp_path / "op.safetensors")
    model, _ = Cait.from_pretrained(grown.path)
    with torch.no_grad():
        losses = [
            float(torch.nn.functional.cross_entropy(model(pixels)["logits"], labels))
            for pixels, labels in setting.batches[4:]
        ]
    assert found.heldout_after == pytest.approx(np.mean(losses), abs=1e-5)


def test_weights_are_made_once_a_step(setting: Setting) -> None:
    """All micro-batches of a step are given the same tensors, another step others."""
    seen: list[int] = []

    def loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(id(next(iter(params.values()))))
        return setting.loss(params, batch)

    setting.fit(loss=loss, train=lambda step: setting.batches[:3], options=CandidateFit(steps=2))
    assert len(seen) == 6
    assert len(set(seen[:3])) == len(set(seen[3:])) == 1


def test_micro_batches_count_as_much_as_they_predict(setting: Setting) -> None:
    """A batch of sixteen cut into four and twelve, up to rounding."""
    pixels, labels = setting.batches[0]
    parts = [(pixels[:4], labels[:4]), (pixels[4:], labels[4:])]
    options = CandidateFit(steps=3)
    whole = setting.fit(train=lambda step: [(pixels, labels)], options=options)
    cut = setting.fit(train=lambda step: parts, options=options, predicted=lambda batch: len(batch[1]))
    assert cut.losses == pytest.approx(whole.losses, rel=1e-4)
    assert setting.fit(train=lambda step: parts, options=options).losses[0] != pytest.approx(whole.losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": lambda params, batch: torch.zeros(3)},
            "loss gives a tensor of shape (3,); it must be one number, a tensor of shape ()",
        ),
        ({"loss": lambda params, batch: 1.0}, "loss gives float; it must be one number, a tensor of shape ()"),
        ({"heldout": []}, "heldout: no batch to measure the held-out loss on"),
        (
            {"options": CandidateFit(distill=Distill())},
            "distill: a loss of your own has no logits to compare; put the small model's into the loss",
        ),
    ],
)
def test_what_cannot_be_learned_on_is_refused(setting: Setting, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        setting.fit(**changes)
    assert str(caught.value) == message


def test_a_start_without_arrays_is_refused(setting: Setting) -> None:
    """Copies have none; asked for dense maps they have."""
    same = Growth(setting.growth.small, setting.growth.small)
    start = build_operator(same, None, None)
    other = replace(setting, growth=same, start=start, large=Cait(CONFIG))
    with pytest.raises(PlanError, match="nothing is left to learn"):
        other.fit(options=CandidateFit.model_validate({"steps": 1, "learn": {"width": "none", "depth": "none"}}))
    found = other.fit(options=CandidateFit.model_validate({"steps": 1, "learn": {"structure": "dense"}}))
    assert found.parameters > 0


def test_transformers_are_not_needed() -> None:
    """Importing ``fit_loss`` does not load them; loading the objectives of plans does (the twin)."""
    code = "import sys, ligo_torch{}; print('transformers' in sys.modules)"
    for more, wanted in (("", "False"), (", ligo_torch.huggingface", "True")):
        found = subprocess.run(
            [sys.executable, "-c", code.format(more)], capture_output=True, text=True, check=True, timeout=300
        )
        assert found.stdout.strip() == wanted
