"""Candidates trained for a short while, each for the same operations; see ``ligo_spec.compare``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ligo_spec.compare import Lap, Outcome, RaceTask
from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, NumericalError
from ligo_spec.fitting import FitTask, Log
from ligo_spec.flops import FORWARD_AND_BACKWARD, OPERATIONS, training_flops
from ligo_spec.plan import Compare
from ligo_torch.fit import Batches, accumulated, learn, mean_loss, prepare
from ligo_torch.huggingface import Batch, FunctionalModel, functional_model
from ligo_torch.learnable import LearnableOperator

BETAS = (0.9, 0.95)

DECAYING = 0.2
"""Share of the steps over which the learning rate falls, to a tenth."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Draws:
    """Held-out batches: those that choose, and others of other text that report."""

    choosing: Sequence[Batch]
    reporting: Sequence[Batch]


def race(task: RaceTask, log: Log) -> Outcome:
    """Fit the candidate's operator if it has a fit, then train the large model at every rate and seed.

    Raises:
        PlanError: The plan asks for what cannot be done.
        InputError: Text, tokenizer or head are missing, or there is too little held-out text.
    """
    torch.manual_seed(task.seed)  # of a large model from scratch
    model, learnable, batches = prepare(task.fit)
    draws = _heldout(batches)
    step_flops, fit_flops = _costs(task.fit, learnable)
    steps = task.options.steps - math.ceil(task.fit_steps * fit_flops / step_flops)
    if steps < 1:
        raise InputError(f"{task.name}: a fit of {task.fit_steps} steps leaves none of {task.options.steps}")
    try:
        if task.fit_steps:
            for _ in learn(model, learnable, batches, lambda record: log({**record, "candidate": task.name})):
                pass
        start = _start(task, model, learnable)
        before = mean_loss(model, start, draws.choosing)
    except NumericalError:
        start, before = {}, math.inf
    laps = []
    for rate in task.options.learning_rates:
        for seed in range(task.options.seeds):
            own = replace_draws(batches, Draws(task.seed + 1 + seed))  # others than those of the fit
            laps.append(_lap(task, model, start, own, draws, rate, seed, steps, log))
    return Outcome(task.name, task.fit_steps, before, tuple(laps), task.fit_steps * fit_flops + steps * step_flops)


def small_loss(task: RaceTask) -> float:
    """Held-out loss of the small model on the draw that nothing is chosen by, in nats a predicted token."""
    model, _, batches = prepare(task.fit)
    growth = task.fit.growth
    small = functional_model(growth.small, task.fit.binding, model.objective, batches.device)
    canonical = {
        name: torch.tensor(task.fit.read(name).astype("float32"), device=batches.device)
        for name in task.fit.binding.names()
    }
    return mean_loss(small, small.parameters(canonical), _heldout(batches).reporting)


def replace_draws(batches: Batches, draws: Draws) -> Batches:
    """The same text in other batches."""
    return Batches(batches.tokens, batches.options, batches.objective, draws, batches.device)


def _heldout(batches: Batches) -> _Draws:
    """Batches from the two halves of the held-out text, so that what chooses never reports."""
    tokens, length = batches.tokens, batches.options.data.seq_len
    half = len(tokens.heldout) // 2
    if half < length:
        raise InputError(f"the held-out text has {len(tokens.heldout)} tokens, fewer than two windows of {length}")
    halves = []
    for part in (tokens.heldout[:half], tokens.heldout[half:]):
        cut = Batches(replace(tokens, heldout=part), batches.options, batches.objective, batches.draws, batches.device)
        halves.append(list(cut.heldout()))
    return _Draws(*halves)


def _costs(task: FitTask, learnable: LearnableOperator) -> tuple[float, float]:
    """Operations of a training step and of a step of the fit."""
    data = task.options.data
    tokens = data.seq_len * data.batch_size
    step = tokens * training_flops(task.growth.large, task.binding.templates(), data.seq_len)
    return step, step + FORWARD_AND_BACKWARD * OPERATIONS * learnable.products()


def _start(task: RaceTask, model: FunctionalModel, learnable: LearnableOperator) -> Weights:
    if not task.grown:
        return {name: value.detach().clone() for name, value in model.model.named_parameters()}
    with torch.no_grad():
        return model.parameters(learnable.weights())


def _lap(
    task: RaceTask,
    model: FunctionalModel,
    start: Weights,
    batches: Batches,
    draws: _Draws,
    rate: float,
    seed: int,
    steps: int,
    log: Log,
) -> Lap:
    weights = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    losses: list[float] = []
    for loss in _trained(model, weights, batches, task.options, rate, steps) if weights else ():
        losses.append(loss)
        record = {"event": "step", "step": len(losses), "steps": steps, "loss": loss, "learning_rate": rate}
        log({**record, "candidate": task.name, "seed": seed})
    chosen, reported = ([_loss(model, weights, batch) for batch in part] for part in (draws.choosing, draws.reporting))
    means = [sum(part) / len(part) for part in (chosen, reported)]
    diverged = len(losses) < steps or not all(map(math.isfinite, means))
    if diverged:
        return Lap(rate, seed, steps, math.inf, math.inf, 0.0, tuple(losses), True)
    spread = sum((loss - means[1]) ** 2 for loss in reported) / max(1, len(reported) - 1)
    return Lap(rate, seed, steps, means[0], means[1], math.sqrt(spread / len(reported)), tuple(losses), False)


def _loss(model: FunctionalModel, weights: Weights, batch: Batch) -> float:
    return mean_loss(model, weights, [batch]) if weights else math.inf


def _trained(
    model: FunctionalModel, weights: Weights, batches: Batches, options: Compare, rate: float, steps: int
) -> Iterator[float]:
    """The loss of every step; ends early where it stops being a number."""
    decayed = [value for value in weights.values() if value.ndim > 1]
    others = [value for value in weights.values() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=BETAS)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps, options.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        loss = accumulated(model, weights, batches.train(step))
        norm = float(torch.nn.utils.clip_grad_norm_(list(weights.values()), options.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return
        optimizer.step()
        yield loss


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the peak at a step (from 0): linear warm-up, constant, then a line down to a tenth."""
    rising = (step + 1) / (min(warmup, steps // 2) + 1)
    falling = 0.1 + 0.9 * (steps - step) / max(1.0, DECAYING * steps)
    return min(1.0, rising, falling)
