"""What a step of a fit costs, against a plain training step of the same large model and against the official way.

    python benchmarks/fit.py                  tokens a step, micro-batches, and memory, each as a ratio within this run
    python benchmarks/fit.py --quick          a small model, two steps: for its working, not for its numbers
    python benchmarks/fit.py --device cuda    on a GPU

The official way is that of the code published with LiGO: each module builds its large weights whenever it is called,
so for every micro-batch anew, each layer by itself. All ways train on the same batches with the same optimizer; the
plain one updates the large model's own weights.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.utils import parametrize

from ligo_spec.grow import fit_task
from ligo_spec.job import load_job
from ligo_spec.layout import Slot, pack
from ligo_spec.maps import Blocks, Dense
from ligo_torch.execution import executed
from ligo_torch.fit import accumulated, gradients, prepare
from ligo_torch.huggingface import FunctionalModel
from ligo_torch.learnable import LearnableOperator

PAIR = {"n_layer": 3, "n_embd": 96, "n_head": 3, "n_positions": 128, "vocab_size": 256}
"""L3 d96 to L6 d192, GPT-2."""

QUICK = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 256}

WAYS = ("plain", "ours", "official")

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {"again": {"gradient_checkpointing": True}},
    "cuda": {"again": {"gradient_checkpointing": True}, "bfloat16": {"precision": "bfloat16"}},
}
"""More ways, by device: ours under an option of the plan's ``fit``. Few CPUs compute in bfloat16; the others take many
times as long."""

LONG = 1024
"""Tokens of a window where memory is measured."""

CASES = [(2048, 1), (8192, 1), (8192, 4), (16384, 1)]
"""Tokens a step, and micro-batches."""

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""

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
    options = task.options.model_copy(update=OPTIONS[task.options.device].get(way, {}))
    model, learnable, batches = prepare(replace(task, options=options))
    parts = batches.train(0)
    trained = list[torch.Tensor](learnable.parameters)
    if way == "plain":
        weights = {k: v.detach().clone().requires_grad_() for k, v in model.parameters(learnable.weights()).items()}
        trained = list(weights.values())
    elif way == "official":
        rebuild(model, learnable)
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    ours = executed(model, options, 1, batches.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if way == "plain":
            accumulated(model, weights, parts)
        elif way == "official":
            accumulated(model, {}, parts)
        else:
            gradients(ours, learnable, parts)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def rebuild(model: FunctionalModel, learnable: LearnableOperator) -> None:
    """From now on, the model's modules build their weights by an operator whenever they use them."""
    slots = {id(model.model.get_parameter(slot.name)): slot for slot in model.slots}
    owned = [(module, *item) for module in model.model.modules() for item in module.named_parameters(recurse=False)]
    for module, name, value in owned:  # a tied head builds its own, as the official code unties it
        parametrize.register_parametrization(module, name, Official(slots[id(value)], learnable))


class Official(torch.nn.Module):
    """A parameter as the official ``FusedLinear.get_params`` makes it: layers mixed, ``[W, W Cᵀ]``, then ``[W; C W]``.

    Args:
        slot: What the parameter holds.
        learnable: The operator, of LiGO's preset.
    """

    def __init__(self, slot: Slot, learnable: LearnableOperator) -> None:
        super().__init__()
        self.slot = slot
        self.term, self.family = learnable.start.main, learnable.family
        self.leaf = learnable._leaf
        stacked = [learnable._small[template] for template in slot.canonical]
        self.small = [value if slot.layer is None else value.movedim(0, -1).contiguous() for value in stacked]

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """The large values, as the library lays them out."""
        parts = [self.built(*pair) for pair in zip(self.slot.canonical, self.small, strict=True)]
        made: torch.Tensor = pack(parts, self.slot.steps, torch)
        return made

    def built(self, template: str, weight: torch.Tensor) -> torch.Tensor:
        """One canonical tensor, ``(d_out_large, d_in_large)``."""
        if self.slot.layer is not None:
            weight = (weight * self.leaf(self.term.mix(template))[self.slot.layer]).sum(-1)
        for axis, dim in reversed(list(enumerate(self.family.tensors[template].touches))):
            map_ = self.term.map(dim.space, dim.role, self.slot.layer)
            if isinstance(map_, Blocks) and isinstance(new := map_.parts[1], Dense):
                rows = self.leaf(new.matrix)
                weight = torch.cat([weight, weight @ rows.T if axis else rows @ weight], axis)
        return weight


def keep_memory() -> None:
    """Have the C library keep what is freed.

    glibc gives arrays of tens of megabytes back at once, and gets them anew, page by page and zeroed: at 16k tokens a
    million page faults a step, that take from a third of the arithmetic to twice of it, by what the system is doing.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


@dataclass(frozen=True)
class Taken:
    """What one step took.

    Args:
        seconds: On a CPU of work, not of waiting for a core that others use.
        system: Those of them that the kernel took.
        faults: Pages that it mapped.
    """

    seconds: float
    system: float
    faults: int


def timed(steps: dict[str, Step], rounds: int, device: str) -> dict[str, list[Taken]]:
    """What a step took by way, of every round; the ways take turns."""
    taken: dict[str, list[Taken]] = {way: [] for way in steps}
    for number in range(rounds + 1):
        for way, step in steps.items():
            one = _taken(step, device)
            if number:  # the first one warms up
                taken[way].append(one)
    return taken


def _taken(step: Step, device: str) -> Taken:
    clock = time.perf_counter if device == "cuda" else time.process_time
    synchronize(device)
    before, start = resource.getrusage(resource.RUSAGE_SELF), clock()
    step()
    synchronize(device)
    seconds, after = clock() - start, resource.getrusage(resource.RUSAGE_SELF)
    return Taken(seconds, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt)


def over_plain(taken: dict[str, list[Taken]]) -> dict[str, Any]:
    """What every way costs over the plain one: by the least times of both, and the median over rounds.

    With it, medians of what the kernel did for a step of each way: where it is much, memory is given back and forth.
    """
    seconds = {way: [one.seconds for one in rounds] for way, rounds in taken.items()}
    plain, found = seconds["plain"], dict[str, Any]()
    for way in seconds:
        if way != "plain":
            found[f"{way}_over_plain"] = min(seconds[way]) / min(plain)
            found[f"{way}_over_plain_median"] = median(a / b for a, b in zip(seconds[way], plain, strict=True))
    found["page_faults"] = {way: median(one.faults for one in rounds) for way, rounds in taken.items()}
    found["system_seconds"] = {way: median(one.system for one in rounds) for way, rounds in taken.items()}
    return found


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
    for way in (*WAYS, *OPTIONS[device]):
        arguments = [sys.executable, __file__, "--peak-of", way, "--plan", str(plan), "--device", device]
        found[way] = int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; more of them stall on a busy machine")
    parser.add_argument(
        "--release", action="store_true", help="let the C library give memory back while times are taken"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--peak-of", choices=[*WAYS, *OPTIONS["cuda"]], help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.peak_of:
        print(peak_of(asked.peak_of, asked.plan, asked.device))
        return
    if not asked.release:
        keep_memory()
    figures = measured(QUICK if asked.quick else PAIR, [(256, 2)] if asked.quick else CASES, asked)
    print(json.dumps(figures, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(config: dict[str, Any], cases: list[tuple[int, int]], asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for number, (tokens, parts) in enumerate(cases, 1):
            plan = plan_in(Path(name), config, tokens, parts, asked.device)
            ways = (*WAYS, *OPTIONS[asked.device]) if number == 1 else WAYS  # options cost a like share everywhere
            taken = timed({way: step_of(way, plan) for way in ways}, 2 if asked.quick else asked.rounds, asked.device)
            plain = min(one.seconds for one in taken["plain"])
            row = {"tokens": tokens, "micro_batches": parts, "plain_seconds": plain}
            rows.append(row | over_plain(taken))
            print(rows[-1], file=sys.stderr)
        long = {**config, "n_positions": config["n_positions"] if asked.quick else LONG}
        place = Path(name) / "long"
        place.mkdir()
        peaks = memory(plan_in(place, long, cases[-1][0], 1, asked.device), asked.device)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    pair = {"small": config, "large": "twice the layers, the width and the heads"}
    peak: dict[str, Any] = {"tokens": cases[-1][0], "window": long["n_positions"], "bytes": peaks}
    peak |= {f"{way}_over_plain": peaks[way] / peaks["plain"] for way in peaks if way != "plain"}
    device = torch.cuda.get_device_name() if asked.device == "cuda" else f"cpu, {asked.threads} thread(s)"
    return {"device": device, "versions": versions, "pair": pair, "steps": rows, "peak": peak}


if __name__ == "__main__":
    main()
