"""The demo and the model that it grows: it runs from nothing, and its numbers are those of the run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import ligo_spec
from ligo_spec.fitting import FitTask
from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from ligo_spec.operator import Growth

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from ligo_torch.fit import evaluate, evaluate_random

torch.set_num_threads(1)  # test runs share the cores; threads that wait for one another stall them all

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"

MODEL = EXAMPLES / "tiny-gpt2"

STEPS = 12
"""Fewer than the demo has for people."""

MADE = os.environ.get("LIGO_DEMO_LOG")
"""What a run of `make demo` in this repository has printed, with so many steps; CI makes one before the tests."""

ALONE = {"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Demo:
    """A run of the demo: the directory that it was made in, and what it printed."""

    directory: Path
    output: str

    @property
    def grown(self) -> Path:
        """The large model."""
        return self.directory / "out" / "demo" / "grown"

    @property
    def table(self) -> dict[str, str]:
        """The losses of the printed table, by the model."""
        return dict(re.findall(r"^ *(\S.*?) {2,}(\d\.\d{4}) *$", self.output, re.MULTILINE))

    def task(self) -> FitTask:
        """What the demo's fit worked on."""
        return fit_task(load_job(self.directory / "out" / "demo" / "plan.yaml", source=MODEL))


def run_demo(directory: Path) -> Demo:
    """The run that was made already, or one in this directory."""
    if MADE is not None:
        return Demo(EXAMPLES.parent, Path(MADE).read_text("utf-8"))
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--steps", str(STEPS)]
    done = subprocess.run(command, cwd=directory, env=os.environ | ALONE, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Demo(directory, done.stdout)


def growth_in(task: FitTask, **target: int) -> FitTask:
    """The same task for another growth of the small model, by copying in width."""
    from ligo_spec.methods.hypercloning import HyperCloning

    growth = Growth(task.growth.small, task.growth.small.grown(target))
    return replace(task, growth=growth, operator=ligo_spec.build_operator(growth, HyperCloning(), None))


def log_of(demo: Demo) -> list[dict[str, Any]]:
    """The records of the demo's fit."""
    return [json.loads(line) for line in (demo.grown / "fit_log.jsonl").read_text("utf-8").splitlines()]


def the_table_has_all_methods(demo: Demo) -> None:
    """In the order of the README's idea: the small model, a random one, starts, LiGO."""
    assert list(demo.table) == [
        "small model (3 layers × 64)",
        "large model, random (6 layers × 128)",
        "net2net + stack",
        "hypercloning + stack",
        "hypercloning + interpolate",
        "zero_pad + stack",
        "hypercloning in width alone (lossless)",
        "LiGO's start (before the fit)",
        f"LiGO after {STEPS} steps",
    ]


def the_table_is_of_this_run(demo: Demo) -> None:
    """Losses that are computed here anew, and those of the fit's own log, as they are printed."""
    task, records = demo.task(), log_of(demo)
    wanted = {
        "small model (3 layers × 64)": evaluate(growth_in(task)),
        "large model, random (6 layers × 128)": evaluate_random(task),
        "hypercloning in width alone (lossless)": evaluate(growth_in(task, hidden_size=128, num_attention_heads=4)),
        "LiGO's start (before the fit)": records[0]["loss"],
        f"LiGO after {STEPS} steps": records[-1]["loss"],
    }
    for name, loss in wanted.items():
        assert float(demo.table[name]) == pytest.approx(loss, abs=1e-4), name
    assert len(records) == STEPS + 2


def lossless_growth_has_the_small_models_loss_and_others_not(demo: Demo) -> None:
    """To every digit that is printed; stacked and padded models are worse, and still far better than random."""
    table = demo.table
    small = table.pop("small model (3 layers × 64)")
    random = float(table.pop("large model, random (6 layers × 128)"))
    assert table.pop("hypercloning in width alone (lossless)") == small
    starts = [float(loss) for name, loss in table.items() if " + " in name]
    assert len(starts) == 4
    assert all(float(small) + 0.1 < loss < random - 1 for loss in starts)


def the_fit_lowers_the_heldout_loss_of_its_start(demo: Demo) -> None:
    """By more than a nat in a dozen steps."""
    before, after = demo.table["LiGO's start (before the fit)"], demo.table[f"LiGO after {STEPS} steps"]
    assert float(after) < float(before) - 1.0
    assert f"held-out loss {before} → {after} nats a token in {STEPS} steps" in demo.output


def the_printed_command_loads_the_grown_model(demo: Demo) -> None:
    """As it is printed, with this Python in the place of the Makefile's."""
    (line,) = (line for line in demo.output.splitlines() if line.startswith("  .venv/bin/python "))
    command = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=demo.directory, env=os.environ | ALONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "GPT2LMHeadModel" in done.stdout
    assert "(0-5): 6 x GPT2Block" in done.stdout


def the_plan_of_the_demo_is_the_shipped_one(demo: Demo) -> None:
    """But for the steps that were asked for."""
    shipped, used = (EXAMPLES / "tiny-gpt2.yaml").read_text("utf-8"), demo.directory / "out" / "demo" / "plan.yaml"
    assert "  steps: 100\n" in shipped
    assert used.read_text("utf-8") == shipped.replace("steps: 100", f"steps: {STEPS}")


def test_the_shipped_model_is_small() -> None:
    """It lives in the repository: two megabytes at most, all files together."""
    sizes = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert sizes["model.safetensors"] > 500_000  # the weights, not a pointer to them
    assert sum(sizes.values()) <= 2_000_000


def the_shipped_model_is_trained(demo: Demo) -> None:
    """It predicts held-out text far better than a random model, and about as well as its README says."""
    (claimed,) = re.findall(
        r"held-out loss \| \*\*(\d\.\d+) nats per byte\*\*", (MODEL / "README.md").read_text("utf-8")
    )
    found = float(demo.table["small model (3 layers × 64)"])
    assert found < float(demo.table["large model, random (6 layers × 128)"]) / 2
    assert found == pytest.approx(float(claimed), abs=0.2)  # other windows, and perhaps another Python's library


def test_the_demo(tmp_path: Path) -> None:
    """One run for all that is to be seen of it: test runs side by side would each make their own."""
    demo = run_demo(tmp_path)
    the_table_has_all_methods(demo)
    the_table_is_of_this_run(demo)
    lossless_growth_has_the_small_models_loss_and_others_not(demo)
    the_fit_lowers_the_heldout_loss_of_its_start(demo)
    the_printed_command_loads_the_grown_model(demo)
    the_plan_of_the_demo_is_the_shipped_one(demo)
    the_shipped_model_is_trained(demo)
