"""Train what was grown for a few steps, by a plain loop, to see which start suits a model and its data (SPEC.md 6.5).

AdamW with β = (0.9, 0.95), weight decay on matrices, gradients clipped, without dropout. Every entrant sees the same
batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, NumericalError
from ligo_spec.fitting import Log
from ligo_spec.plan import Compare
from ligo_spec.racing import Entrant, Losses, Raced, Trial
from ligo_torch.distill import Distilled, taught
from ligo_torch.examples import Examples
from ligo_torch.execution import executed
from ligo_torch.fit import Batches, Model, accumulated, learn, prepare
from ligo_torch.huggingface import Batch, FunctionalModel
from ligo_torch.learnable import LearnableOperator

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
        self._examples: Examples | None = None

    def race(self, entrant: Entrant, rates: Sequence[float], share: float, log: Log, /) -> Raced:
        """Fit an entrant where it is to be fitted, and train it at every rate; see ``ligo_spec.racing.Racer``.

        Raises:
            PlanError: The plan asks for what cannot be done.
            InputError: Data, tokenizer or head are missing or refused.
        """
        model, learnable, fits = _prepared(entrant, self._examples)
        self._examples = fits.examples  # data are read once
        step = step_flops(model, entrant, fits)
        teacher = taught(entrant.task, model, fits) if entrant.fitted else None
        fit_flops = 0.0
        if entrant.fitted:
            told = 0.0 if teacher is None else lesson_flops(teacher, entrant, fits)
            fit_flops = entrant.task.options.steps * (step + told + operator_flops(learnable))
        worth = self.options.budget_steps(fits.options.data)
        steps = int(worth - fit_flops / step)
        if steps < 1:
            return Raced(step, fit_flops, 0, None, ())
        if entrant.fitted:
            try:
                lesson = executed(teacher or model, fits.options, fits.options.steps, fits.device)
                learn(model, learnable, fits, _fitting(log, entrant.task.seed), lesson)
            except NumericalError as error:
                return Raced(step, fit_flops, steps, None, (), str(error))
        trained = executed(model, fits.options, steps * len(rates), fits.device)
        heldout = Heldout(fits, self.options, self.seed)
        course = Course(model, trained, heldout, self._batches(fits), self.options, steps)
        start = course.measure(course.start(learnable, entrant))["report"]
        stop = steps if share == 1 else max(0, int(share * worth - fit_flops / step))
        trials = tuple(course.trial(course.start(learnable, entrant), rate, stop, log) for rate in rates)
        return Raced(step, fit_flops, steps, start.mean if start else None, trials)

    def _batches(self, fits: Batches) -> Batches:
        return Batches(fits.examples, fits.options, fits.draws, fits.device, "compare")


def _fitting(log: Log, seed: int) -> Log:
    """The steps of a fit, told apart from those of training."""

    def told(record: Mapping[str, Any]) -> None:
        if record["event"] == "step":
            log({**record, "event": "fit", "seed": seed})

    return told


def _prepared(entrant: Entrant, examples: Examples | None) -> tuple[FunctionalModel, LearnableOperator, Batches]:
    with torch.random.fork_rng(devices=[]):  # the library draws a random model from torch's own generator
        torch.manual_seed(entrant.task.seed)
        return prepare(entrant.task, examples)


def step_flops(model: FunctionalModel, entrant: Entrant, batches: Batches) -> float:
    """Operations of a step of training, by formula."""
    each = batches.examples.training_flops(entrant.task.growth.large, model.templates)
    return batches.options.data.batch_size * each


def lesson_flops(teacher: Distilled, entrant: Entrant, batches: Batches) -> float:
    """Operations of the teacher at a step of a fit, by formula."""
    each = batches.examples.forward_flops(entrant.task.growth.small, teacher.teacher.templates)
    return batches.options.data.batch_size * each


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
        trained: The same as steps compute it.
        heldout: What losses are measured on.
        batches: What it is trained on.
        options: How.
        steps: Of a whole training.
    """

    model: FunctionalModel
    trained: Model
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
        groups = parameter_groups(list(leaves.values()), self.options.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=True)
        for step in range(stop):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.options, peak, step, self.steps)
            optimizer.zero_grad(set_to_none=True)
            loss = accumulated(self.trained, leaves, self.batches.train(step))
            norm = float(torch.nn.utils.clip_grad_norm_(leaves.values(), self.options.clip_norm))
            if not math.isfinite(norm):
                loss = math.nan
            if math.isfinite(loss):
                optimizer.step()
            yield loss


def parameter_groups(values: Sequence[Tensor], weight_decay: float) -> list[dict[str, object]]:
    """Of an optimizer: matrices decay, vectors do not."""
    return [
        {"params": [value for value in values if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
    ]


class Heldout:
    """Two disjoint draws of what is held out: it is cut into examples side by side, and each goes to one draw.

    Args:
        batches: The data.
        options: How many batches a draw has; fewer where fewer examples are held out.
        seed: Of the draws and the masks; the plan's, whatever the seed of a training.

    Raises:
        InputError: Fewer than two examples are held out.
    """

    def __init__(self, batches: Batches, options: Compare, seed: int) -> None:
        self.batches, self.draws = batches, Draws(seed)
        count = batches.examples.disjoint()
        places = self.draws.of("compare.heldout").permutation(count)
        each = min(count // 2, options.heldout_batches * batches.options.data.batch_size)
        if not each:
            raise InputError(
                f"held-out windows or images: {count}; at least 2 are needed, one to choose by and one to report"
            )
        self.places: dict[str, list[npt.NDArray[np.int64]]] = {}
        for number, draw in enumerate(DRAWS):
            chosen = places[number * each : (number + 1) * each]
            self.places[draw] = np.array_split(chosen, min(options.heldout_batches, each))

    def batches_of(self, draw: str) -> Iterator[Batch]:
        """The batches of a draw, always the same."""
        for number, places in enumerate(self.places[draw]):
            yield self.batches.placed(self.batches.examples.at(places, self.draws, f"compare.{draw}.{number}"))

    def losses(self, model: FunctionalModel, parameters: Mapping[str, Tensor], draw: str) -> Losses | None:
        """The loss on a draw; None where it is no number."""
        losses, counts = [], []
        with torch.no_grad():
            for batch in self.batches_of(draw):
                losses.append(float(model.loss(parameters, batch)))
                counts.append(model.predicted(batch))
        mean = float(np.average(losses, weights=counts))
        return Losses(mean, tuple(losses)) if math.isfinite(mean) else None
