"""AdamW for a model that ``ligo grow`` wrote: groups from ``param_groups.json``, moments from a grown ``optimizer.pt``.

Both ``continue_*.py`` use this; take the file along with the one that you copy.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer


def saved_states(grown: Path, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Adam's grown state by the names of parameters, and betas and epsilon; both empty where the plan grew none."""
    if not (grown / "optimizer.pt").exists():
        return {}, {}
    saved = torch.load(grown / "optimizer.pt", map_location="cpu", weights_only=True)
    groups = saved["param_groups"]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if "param_names" in groups[0]:  # of AdamW(model.named_parameters())
        names = [name for group in groups for name in group["param_names"]]
    elif len(groups) == 1:  # of AdamW(model.parameters())
        names = trained
    else:  # of the Trainer: first all that decays, then the rest
        decays = set(Trainer.get_decay_parameter_names(None, model))
        names = sorted(trained, key=lambda name: name not in decays)
    states = {name: saved["state"][number] for number, name in enumerate(names) if number in saved["state"]}
    return states, {key: groups[0][key] for key in ("betas", "eps")}


def grown_groups(
    model: Any, grown: Path, states: dict[str, Any], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The groups of ``param_groups.json``, with their rates, split by what decays and by what must warm up.

    The first updates of an Adam without moments are as large as they can be, so what has no state warms up. The rest
    is warm from the small run.
    """
    stated = json.loads((grown / "param_groups.json").read_text("utf-8"))["groups"]
    entry_of = {name: entry for entry in stated for name in entry["parameters"]}
    groups: dict[tuple[str, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        entry = entry_of.get(name) or entry_of.get(name.removeprefix(f"{model.base_model_prefix}."))
        if entry is None:
            raise SystemExit(f"{grown}/param_groups.json: {name} is in no group; the library names it otherwise")
        warms_up, decays = not states.get(name, {}).get("step"), parameter.ndim >= 2
        options = {
            "name": entry["name"],
            "warms_up": warms_up,
            "lr": lr * entry["lr_multiplier"],
            "weight_decay": weight_decay * entry["weight_decay_multiplier"] if decays else 0.0,
        }
        groups.setdefault((entry["name"], warms_up, decays), {"params": [], **options})
        groups[entry["name"], warms_up, decays]["params"].append((name, parameter))
    return list(groups.values())


def grown_adamw(model: Any, grown: Path, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over these groups, that goes on with the grown state where there is one. Move the model first."""
    states, options = saved_states(grown, model)
    optimizer = torch.optim.AdamW(grown_groups(model, grown, states, lr, weight_decay), **options)
    ours = optimizer.state_dict()
    names = [name for group in ours["param_groups"] for name in group["param_names"]]
    ours["state"] = {number: states[name] for number, name in enumerate(names) if name in states}
    optimizer.load_state_dict(ours)  # moves moments to the parameters' device
    return optimizer


def schedule(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A cosine to a tenth of each group's rate, times a linear warm-up in the groups that need one."""

    def factor(step: int, *, warms_up: bool) -> float:
        rise = min(1.0, (step + 1) / warmup) if warms_up and warmup else 1.0
        return rise * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, steps))))

    factors: list[Callable[[int], float]] = [partial(factor, warms_up=g["warms_up"]) for g in optimizer.param_groups]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
