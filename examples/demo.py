"""Grow the byte-level GPT-2 in ``examples/tiny-gpt2`` to twice the width and depth, and say what it gave.

Run by ``make demo``. The text is that of the running Python's own standard library; every number in the table is
computed in this run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from python_corpus import write_corpus
from rich.console import Console
from rich.table import Table

import ligo_spec
from ligo_spec import display
from ligo_spec.fitting import FitTask
from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from ligo_spec.methods import DepthMethod, WidthMethod
from ligo_spec.methods.hypercloning import HyperCloning
from ligo_spec.methods.interpolate import Interpolate
from ligo_spec.methods.net2net import Net2Net
from ligo_spec.methods.stack import Stack
from ligo_spec.methods.zero_pad import ZeroPad
from ligo_spec.operator import Growth, Operator
from ligo_torch.fit import evaluate, evaluate_random

HERE = Path(__file__).parent
OUT = Path("out/demo")

STARTS: dict[str, tuple[WidthMethod, DepthMethod | None]] = {
    "net2net + stack": (Net2Net(), Stack()),
    "hypercloning + stack": (HyperCloning(), Stack()),
    "hypercloning + interpolate": (HyperCloning(), Interpolate()),
    "zero_pad + stack": (ZeroPad(), Stack()),
    "hypercloning in width alone (lossless)": (HyperCloning(), None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Grow the tiny GPT-2 to twice the width and depth.")
    parser.add_argument("--steps", type=int, help="steps of the fit; default: the plan's")
    console = Console()
    plan = _prepare(console, parser.parse_args().steps)
    with display.progress(quiet=False) as events:
        grown = ligo_spec.grow(plan, source=HERE / "tiny-gpt2", output=OUT / "grown", events=events)
    display.grown(grown)
    assert grown.fit is not None
    console.print("measuring every method's start on the same held-out text ...")
    console.print(_table(plan, grown.fit))
    load = f"t.AutoModelForCausalLM.from_pretrained('{OUT}/grown')"
    console.print(
        "Lower is better. A start's loss says little about the loss after training (docs/decisions.md).\n\n"
        "Load the grown model:\n\n"
        f'  .venv/bin/python -c "import transformers as t; print({load})"',
        highlight=False,
        soft_wrap=True,
    )


def _prepare(console: Console, steps: int | None) -> Path:
    """A fresh ``out/demo`` with the text and the plan in it."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    counts = write_corpus(OUT / "corpus", limit_bytes=10_000_000)
    console.print(f"text of the standard library: {counts}", highlight=False)
    text = (HERE / "tiny-gpt2.yaml").read_text("utf-8")
    if steps is not None:
        text = re.sub(r"steps: \d+", f"steps: {steps}", text)
    plan = OUT / "plan.yaml"
    plan.write_text(text, "utf-8")
    return plan


def _table(plan: Path, fit: ligo_spec.FitResult) -> Table:
    task = fit_task(load_job(plan, source=HERE / "tiny-gpt2"))
    rows = [("small model (3 layers × 64)", evaluate(_alone(task)))]
    rows.append(("large model, random (6 layers × 128)", evaluate_random(task)))
    for name, (width, depth) in STARTS.items():
        growth = task.growth if depth else _width_only(task)
        operator = ligo_spec.build_operator(growth, width, depth, seed=task.seed)
        rows.append((name, evaluate(_with(task, growth, operator))))
    rows.append(("LiGO's start (before the fit)", fit.heldout_before))
    rows.append((f"LiGO after {len(fit.losses)} steps", fit.heldout_after))
    table = Table("model", "held-out loss (nats a byte)", title="tiny-gpt2, grown", title_justify="left", box=None)
    for name, loss in rows:
        table.add_row(name, f"{loss:.4f}")
    return table


def _alone(task: FitTask) -> FitTask:
    """The small model by itself: growth to its own size."""
    growth = Growth(task.growth.small, task.growth.small)
    return _with(task, growth, ligo_spec.build_operator(growth, None, None))


def _width_only(task: FitTask) -> Growth:
    small = task.growth.small
    sizes = dict(task.growth.large.sizes)
    target = {name: sizes[name] for name in ("hidden_size", "num_attention_heads")}
    return Growth(small, small.grown(target))


def _with(task: FitTask, growth: Growth, operator: Operator) -> FitTask:
    return replace(task, growth=growth, operator=operator)


if __name__ == "__main__":
    main()
