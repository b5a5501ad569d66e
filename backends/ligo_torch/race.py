"""Train what was grown for a few steps, by a plain loop, to see which start suits a model and its data (SPEC.md 6.5).

AdamW with β = (0.9, 0.95), weight decay on matrices, gradients clipped, without dropout. Every entrant sees the same
batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, NumericalError
from ligo_spec.fitting import Log
from ligo_spec.flops import training_flops
from ligo_spec.plan import Compare
from ligo_spec.racing import Entrant, Losses, Raced, Trial
from ligo_torch.execution import training_loss
from ligo_torch.fit import Batches, accumulated, learn, prepare
from ligo_torch.huggingface import Batch, FunctionalModel
from ligo_torch.learnable import LearnableOperator
from ligo_torch.text import Ids, Tokens, masked, masked_room

BETAS = (0.9, 0.95)

DRAWS = ("choose", "report")
"""The two disjoint draws of held-out windows: one to choose by, one to report."""


class TorchRacer:
    """Trains the entrants of one comparison with PyTorch, one at a time.

    Args:
        options: The plan's ``compare``.
        seed: The plan's.
    """

    def __init__(self, options: Compare, seed: int) -> None:
        self.options, self.seed = options, seed
        self._tokens: Tokens | None = None

    def race(self, entrant: Entrant, rates: Sequence[float], share: float, log: Log, /) -> Raced:
        """Fit an entrant where it is to be fitted, and train it at every rate; see ``ligo_spec.racing.Racer``.

        Raises:
            PlanError: The plan asks for what cannot be done.
            InputError: Text, tokenizer or head are missing.
        """
        model, learnable, fits = _prepared(entrant, self._tokens)
        self._tokens = fits.tokens  # the text is read once
        step = step_flops(model, entrant, fits)
        fit_flops = entrant.task.options.steps * (step + operator_flops(learnable)) if entrant.fitted else 0.0
        worth = self.options.budget_steps(fits.options.data)
        steps = int(worth - fit_flops / step)
        if steps < 1:
            return Raced(step, fit_flops, 0, None, ())
        if entrant.fitted:
            try:
                learn(model, learnable, fits, _fitting(log, entrant.task.seed))
            except NumericalError as error:
                return Raced(step, fit_flops, steps, None, (), str(error))
        model = replace(model, step=training_loss(model, fits.options, steps * len(rates)))
        course = Course(model, Heldout(fits, self.options, self.seed), self._batches(fits), self.options, steps)
        start = course.measure(course.start(learnable, entrant))["report"]
        stop = steps if share == 1 else max(0, int(share * worth - fit_flops / step))
        trials = tuple(course.trial(course.start(learnable, entrant), rate, stop, log) for rate in rates)
        return Raced(step, fit_flops, steps, start.mean if start else None, trials)

    def _batches(self, fits: Batches) -> Batches:
        return Batches(fits.tokens, fits.options, fits.objective, fits.draws, fits.device, "compare")


def _fitting(log: Log, seed: int) -> Log:
    """The steps of a fit, told apart from those of training."""

    def told(record: Mapping[str, Any]) -> None:
        if record["event"] == "step":
            log({**record, "event": "fit", "seed": seed})

    return told


def _prepared(entrant: Entrant, tokens: Tokens | None) -> tuple[FunctionalModel, LearnableOperator, Batches]:
    with torch.random.fork_rng(devices=[]):  # the library draws a random model from torch's own generator
        torch.manual_seed(entrant.task.seed)
        return prepare(entrant.task, tokens)


def step_flops(model: FunctionalModel, entrant: Entrant, batches: Batches) -> float:
    """Operations of a step of training, by formula."""
    slots = [*model.slots, *(slot for fused in model.fused.values() for slot in fused.slots)]
    templates = {template for slot in slots for template in slot.canonical}
    data = batches.options.data
    return data.batch_size * training_flops(entrant.task.growth.large, templates, data.seq_len)


def operator_flops(learnable: LearnableOperator) -> float:
    """Operations of computing the large weights once and pulling their gradients back, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        parts = [weight.sum() for weight in learnable.weights().values()]
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in learnable.parameters:
        parameter.grad = None
    return float(counter.get_total_flops())


def learning_rate(options: Compare, peak: float, step: int, steps: int) -> float:
    """Linear warm-up, constant, and a linear decay over the last steps; ``step`` counts from 0."""
    falling = round(options.decay * steps)
    return peak * min(1.0, (step + 1) / (options.warmup_steps + 1), (steps - step) / (falling + 1))


@dataclass(frozen=True)
class Course:
    """What all trainings of an entrant have in common.

    Args:
        model: The large model as a function.
        heldout: What losses are measured on.
        batches: What it is trained on.
        options: How.
        steps: Of a whole training.
    """

    model: FunctionalModel
    heldout: Heldout
    batches: Batches
    options: Compare
    steps: int

    def start(self, learnable: LearnableOperator, entrant: Entrant) -> dict[str, Tensor]:
        """The parameters that training starts from, new ones at each call."""
        if entrant.kind == "random":
            drawn: dict[str, Tensor] = dict(self.model.model.named_parameters())
        else:
            with torch.no_grad():
                drawn = self.model.parameters(learnable.weights())
        return {name: value.detach().clone() for name, value in drawn.items()}

    def measure(self, parameters: Mapping[str, Tensor]) -> dict[str, Losses | None]:
        """Held-out losses on both draws; None for one that is no number."""
        return {draw: self.heldout.losses(self.model, parameters, draw) for draw in DRAWS}

    def trial(self, parameters: dict[str, Tensor], peak: float, stop: int, log: Log) -> Trial:
        """Train ``parameters``, in place, for the first ``stop`` steps."""
        curve: list[float] = []
        seed = self.batches.draws.seed
        for loss in self._train(parameters, peak, stop):
            if not math.isfinite(loss):
                return Trial(peak, seed, tuple(curve), None, None, len(curve) + 1)
            curve.append(loss)
            log({"event": "step", "step": len(curve), "steps": stop, "loss": loss, "learning_rate": peak, "seed": seed})
        found = self.measure(parameters)
        diverged = None if all(found.values()) else stop + 1
        chosen, reported = (None if diverged else found[draw] for draw in DRAWS)
        return Trial(peak, seed, tuple(curve), chosen, reported, diverged)

    def _train(self, parameters: Mapping[str, Tensor], peak: float, stop: int) -> Iterator[float]:
        """The loss of every step; not a number where its gradient is none, and then nothing is done."""
        leaves = {name: value.requires_grad_() for name, value in parameters.items()}
        groups = _groups(list(leaves.values()), self.options.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=True)
        for step in range(stop):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.options, peak, step, self.steps)
            optimizer.zero_grad(set_to_none=True)
            loss = accumulated(self.model, leaves, self.batches.train(step))
            norm = float(torch.nn.utils.clip_grad_norm_(leaves.values(), self.options.clip_norm))
            if not math.isfinite(norm):
                loss = math.nan
            if math.isfinite(loss):
                optimizer.step()
            yield loss


def _groups(values: Sequence[Tensor], weight_decay: float) -> list[dict[str, object]]:
    return [
        {"params": [value for value in values if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
    ]


class Heldout:
    """Two disjoint draws of windows of the held-out text: it is cut side by side, and each window goes to one draw.

    Args:
        batches: The text, and how it is cut.
        options: How many batches a draw has; fewer where the text has fewer windows.
        seed: Of the draws and the masks; the plan's, whatever the seed of a training.

    Raises:
        InputError: The text has fewer than two windows.
    """

    def __init__(self, batches: Batches, options: Compare, seed: int) -> None:
        self.batches, self.draws = batches, Draws(seed)
        data, ids = batches.options.data, batches.tokens.heldout
        room = data.seq_len if batches.objective == "causal_lm" else masked_room(batches.tokens, data)
        places = self.draws.of("compare.heldout").permutation(len(ids) // room) * room
        each = min(len(places) // 2, options.heldout_batches * data.batch_size)
        if not each:
            raise InputError(
                f"the held-out text has {len(ids)} tokens, fewer than two windows of {room}: one to choose by and one "
                "to report"
            )
        self.windows: dict[str, list[Ids]] = {}
        for number, draw in enumerate(DRAWS):
            starts = places[number * each : (number + 1) * each]
            parts = np.array_split(starts, min(options.heldout_batches, each))
            self.windows[draw] = [ids[part[:, None] + np.arange(room)[None, :]] for part in parts]

    def losses(self, model: FunctionalModel, parameters: Mapping[str, Tensor], draw: str) -> Losses | None:
        """The loss on a draw; None where it is no number."""
        losses, counts = [], []
        with torch.no_grad():
            for number, ids in enumerate(self.windows[draw]):
                batch = self._batch(ids, f"compare.{draw}.{number}")
                losses.append(float(model.loss(parameters, batch)))
                counts.append(model.predicted(batch))
        mean = float(np.average(losses, weights=counts))
        return Losses(mean, tuple(losses)) if math.isfinite(mean) else None

    def _batch(self, ids: Ids, name: str) -> Batch:
        made = {"input_ids": ids, "labels": ids}
        if self.batches.objective == "masked_lm":
            made = masked(self.batches.tokens, ids, self.draws, name, self.batches.options.mask_probability)
        return {key: torch.tensor(value, device=self.batches.device) for key, value in made.items()}
