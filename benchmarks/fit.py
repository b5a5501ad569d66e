"""What a step of a fit costs, against a plain training step of the same large model and against the naive way.

    python benchmarks/fit.py                  tokens a step, micro-batches, and memory, each as a ratio within this run
    python benchmarks/fit.py --quick          a small model, two steps: for its working, not for its numbers
    python benchmarks/fit.py --device cuda    on a GPU

The naive way rebuilds every large weight from dense maps for each micro-batch, inside the graph of its forward pass, as
the official code does (``apply_ligo`` in its modules' forward). All three train on the same batches; the plain step
updates the large model's own weights. Times are the least of several rounds, taken in turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from ligo_spec.maps import Dense, Identity, Map, dense
from ligo_spec.operator import Operator
from ligo_torch.fit import gradients, prepare

PAIR = {"n_layer": 3, "n_embd": 96, "n_head": 3, "n_positions": 128, "vocab_size": 256}
"""L3 d96 to L6 d192, GPT-2."""

QUICK = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 256}

WAYS = ("plain", "ours", "naive")

CASES = [(2048, 1), (8192, 1), (8192, 4), (16384, 1)]
"""Tokens a step, and micro-batches."""

Step = Callable[[], None]


def plan_in(place: Path, config: dict[str, Any], tokens: int, parts: int, device: str) -> Path:
    """A random small model, text, and a plan that doubles it with LiGO."""
    length = config["n_positions"]
    if not (place / "small").exists():
        made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, bos_token_id=0, eos_token_id=0))
        made.save_pretrained(place / "small")
        rng = np.random.default_rng(0)
        (place / "text.txt").write_bytes(rng.integers(32, 127, 40 * max(tokens, 8192), dtype=np.uint8).tobytes())
    data = {"path": "text.txt", "tokenizer": "bytes", "seq_len": length, "batch_size": tokens // length}
    fit = {"micro_batches": parts, "device": device, "data": data}
    target = {"num_hidden_layers": 2 * config["n_layer"], "hidden_size": 2 * config["n_embd"]}
    target["num_attention_heads"] = 2 * config["n_head"]
    plan = {"spec": "ligo/plan/1", "source": "small", "target": target, "operator": {"preset": "ligo"}, "fit": fit}
    path = place / f"plan-{tokens}-{parts}.yaml"
    path.write_text(json.dumps({**plan, "output": "grown"}))
    return path


def step_of(way: str, plan: Path) -> Step:
    """One step of a way: forward and backward over the micro-batches, and the optimizer."""
    task = fit_task(load_job(plan))
    if way == "naive":
        task = replace(task, operator=all_dense(task.operator))
    model, learnable, batches = prepare(task)
    parts = batches.train(0)
    if way == "plain":
        weights = {k: v.detach().clone().requires_grad_() for k, v in model.parameters(learnable.weights()).items()}
        trained = list(weights.values())
    else:
        trained = list[torch.Tensor](learnable.parameters)
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def loss_of(parameters: dict[str, torch.Tensor]) -> None:
        for part in parts:
            (model.loss(parameters, part) / len(parts)).backward()  # type: ignore[no-untyped-call]

    def rebuilt() -> None:
        for part in parts:
            weights = model.parameters(learnable.weights())
            (model.loss(weights, part) / len(parts)).backward()  # type: ignore[no-untyped-call]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if way == "plain":
            loss_of(weights)
        elif way == "ours":
            gradients(model, learnable, parts)
        else:
            rebuilt()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def all_dense(operator: Operator) -> Operator:
    """The same operator with every map a whole matrix, identity blocks too."""

    def whole(map_: Map) -> Map:
        return map_ if isinstance(map_, Identity) else Dense(dense(map_))

    terms = [
        replace(term, maps={name: tuple(map(whole, choices)) for name, choices in term.maps.items()})
        for term in operator.terms
    ]
    return replace(operator, terms=tuple(terms))


def timed(steps: dict[str, Step], rounds: int, device: str) -> dict[str, float]:
    """Seconds of a step by way, the least of the rounds, which are taken in turns."""
    best = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for way, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            if number:  # the first one warms up
                best[way] = min(best[way], time.perf_counter() - start)
    return best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_of(way: str, plan: Path, device: str) -> int:
    """Bytes at the peak of three steps: of the GPU, or of the whole process."""
    step = step_of(way, plan)
    for _ in range(3):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def memory(plan: Path, device: str) -> dict[str, int]:
    """Peaks by way, each in a process of its own."""
    found = {}
    for way in WAYS:
        arguments = [sys.executable, __file__, "--peak-of", way, "--plan", str(plan), "--device", device]
        found[way] = int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more of them stall on a busy machine")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.peak_of:
        print(peak_of(asked.peak_of, asked.plan, asked.device))
        return
    figures = measured(QUICK if asked.quick else PAIR, [(256, 2)] if asked.quick else CASES, asked)
    print(json.dumps(figures, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(config: dict[str, Any], cases: list[tuple[int, int]], asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for tokens, parts in cases:
            plan = plan_in(Path(name), config, tokens, parts, asked.device)
            seconds = timed({way: step_of(way, plan) for way in WAYS}, 2 if asked.quick else asked.rounds, asked.device)
            row: dict[str, Any] = {"tokens": tokens, "micro_batches": parts, "plain_seconds": seconds["plain"]}
            row |= {f"{way}_over_plain": seconds[way] / seconds["plain"] for way in WAYS[1:]}
            rows.append(row)
            print(row, file=sys.stderr)
        peaks = memory(plan, asked.device)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    pair = {"small": config, "large": "twice the layers, the width and the heads"}
    peak = {**peaks, "ours_over_plain": peaks["ours"] / peaks["plain"]}
    device = torch.cuda.get_device_name() if asked.device == "cuda" else f"cpu, {asked.threads} thread(s)"
    return {"device": device, "versions": versions, "pair": pair, "steps": rows, "peak_bytes": peak}


if __name__ == "__main__":
    main()
