"""The benchmark of a fit's step: that all its ways train the same, and that it runs; never how fast."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from ligo_torch.fit import accumulated, gradients, prepare

FILE = Path(__file__).parent.parent / "benchmarks" / "fit.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_of_a_fit", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look up what they are annotated with
    spec.loader.exec_module(module)
    return module


def test_the_official_way_has_the_gradients_of_ours(benchmark: Any, tmp_path: Path) -> None:
    """By another road, which builds every parameter once for each micro-batch, a tied head's by itself."""
    model, learnable, batches = prepare(fit_task(load_job(benchmark.plan_in(tmp_path, benchmark.QUICK, 128, 2, "cpu"))))
    parts, learned = batches.train(0), learnable.parameters
    wanted_loss = gradients(model, learnable, parts)
    wanted = [parameter.grad for parameter in learned]
    for parameter in learned:
        parameter.grad = None
    benchmark.rebuild(model, learnable)
    built: list[torch.Tensor] = []
    for module in model.model.modules():
        if isinstance(module, benchmark.Official):
            module.register_forward_hook(lambda _, inputs, made: built.append(made))
    assert accumulated(model, {}, parts) == pytest.approx(wanted_loss, rel=1e-6)
    assert len(built) == len(parts) * (len(model.slots) + 1)
    assert sum(gradient is not None for gradient in wanted) > 20
    for parameter, gradient in zip(learned, wanted, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None and parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.slow
def test_the_quick_benchmark_runs(tmp_path: Path) -> None:
    """All its figures are there, for every way."""
    command = [sys.executable, str(FILE), "--quick", "--json", str(tmp_path / "figures.json")]
    subprocess.run(command, check=True, capture_output=True)
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    ways = ["ours", "official", "again"]
    (row,) = figures["steps"]
    assert all(row[f"{way}_over_plain"] > 0 and row[f"{way}_over_plain_median"] > 0 for way in ways)
    assert set(row["page_faults"]) == set(row["system_seconds"]) == {"plain", *ways}
    assert set(figures["peak"]["bytes"]) == {"plain", *ways}
    assert all(peak > 10**6 for peak in figures["peak"]["bytes"].values())
