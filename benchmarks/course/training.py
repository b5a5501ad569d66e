"""One training under warmup-stable-decay: a trunk at a constant rate, and a branch that decays to each budget.

One trunk so gives a model's loss at several budgets, each at the end of a schedule of its own (Hu et al., arXiv
2404.06395): the last fifth of every budget is a linear decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from course.data import GLANCE, PARTS, Data, Part
from ligo_torch.huggingface import FunctionalModel
from ligo_torch.race import parameter_groups

BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
DECAY = 0.2
"""The share of a budget, its end, in which the rate falls."""

FLOOR = 0.02
"""What the rate falls to, of its peak."""

CURVE_POINTS = 16

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Budget:
    """A branch: what a training may take in its own steps.

    Args:
        total: The whole budget that it stands for, in steps of the large model.
        decay_from: Own step at which the decay begins.
        steps: Own steps in all.
    """

    total: float
    decay_from: int
    steps: int


@dataclass
class Course:
    """What a training has shown.

    Args:
        finals: By total budget, the loss on each part at the end of that budget's decay, and the share that is right
            where classes are told.
        curve: ``(own step, loss on a few batches of the part to choose by)`` along trunk and last decay.
        diverged: The own step at which the loss was no number.
    """

    finals: dict[float, dict[str, float]] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    diverged: int | None = None


class Runner:
    """A model in training.

    Args:
        model: As a function of its parameters.
        weights: Where they start; not changed.
        data: What it learns from.
        seed: Of the batches.
        rate: The peak.
        warmup: Steps until the peak.
        weight_decay: Of matrices.
        names: Prefix of the batches' names; the small model's are others than the large one's.
    """

    def __init__(
        self,
        model: FunctionalModel,
        weights: Mapping[str, Tensor],
        data: Data,
        *,
        seed: int,
        rate: float,
        warmup: int,
        weight_decay: float,
        names: str = "large",
    ) -> None:
        self.model, self.data, self.seed, self.rate, self.warmup, self.names = model, data, seed, rate, warmup, names
        self.weights = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        groups = parameter_groups(list(self.weights.values()), weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)
        self.done = 0

    def run(self, budgets: Sequence[Budget]) -> Course:
        """Train to every budget, the smallest first; ``weights`` are those of the last one afterwards."""
        course, last = Course(), budgets[-1]
        every = max(1, last.steps // CURVE_POINTS)
        course.curve.append((0, self.glance()))
        for budget in budgets:
            self._steps(budget.decay_from, course, every)
            with nullcontext() if budget is last else self.aside():
                self._steps(budget.steps, course, every if budget is last else 0, budget)
                if course.diverged is None:
                    course.finals[budget.total] = self.measure()
            if course.diverged is not None:
                break
        return course

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Whatever is done within is undone afterwards."""
        kept = self._copy()
        yield
        self._restore(kept)

    def advance(self, steps: int) -> None:
        """Train at the constant rate until so many steps are done."""
        self._steps(steps, Course(), 0)

    def glance(self) -> float:
        """Loss on a few batches of the part to choose by."""
        losses = [self._loss(batch) for batch in islice(self.data.heldout("choose"), GLANCE)]
        return float(sum(losses) / len(losses))

    def measure(self) -> dict[str, float]:
        """Loss on both parts, per prediction; and the share of right classes."""
        found: dict[str, float] = {}
        for part in PARTS:
            found |= self._measured(part)
        return found

    def _measured(self, part: Part) -> dict[str, float]:
        total, right, count = 0.0, 0.0, 0
        for batch in self.data.heldout(part):
            with torch.no_grad():
                out = torch.func.functional_call(self.model.model, self.weights, kwargs=dict(batch))
            predicted = self.model.predicted(batch)
            total += float(out.loss) * predicted
            count += predicted
            if out.logits.ndim == 2:
                right += float((out.logits.argmax(-1) == batch["labels"]).sum())
        return {part: total / count} | ({f"{part}_accuracy": right / count} if out.logits.ndim == 2 else {})

    def _loss(self, batch: Mapping[str, Tensor]) -> float:
        with torch.no_grad():
            return float(self.model.loss(self.weights, batch))

    def _steps(self, until: int, course: Course, every: int, decay: Budget | None = None) -> None:
        while self.done < until and course.diverged is None:
            loss = self.step(self._rate(decay))
            if not math.isfinite(loss):
                course.diverged = self.done
            if every and self.done % every == 0:
                course.curve.append((self.done, self.glance()))

    def _rate(self, decay: Budget | None) -> float:
        rate = self.rate * min(1.0, (self.done + 1) / (self.warmup + 1))
        if decay is None:
            return rate
        left = (decay.steps - self.done) / (decay.steps - decay.decay_from + 1)
        return rate * (FLOOR + (1 - FLOOR) * left)

    def step(self, rate: float) -> float:
        """One step at a rate; its loss, or not a number where its gradient is none."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model.loss(self.weights, self.data.batch(f"{self.names}.{self.done}", self.seed))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), CLIP_NORM)
        self.done += 1
        if not math.isfinite(float(norm)):
            return math.nan
        self.optimizer.step()
        return float(loss.detach())

    def _copy(self) -> tuple[int, Weights, list[dict[str, Tensor]]]:
        state = self.optimizer.state
        moments = [{key: value.clone() for key, value in state[leaf].items()} for leaf in self.weights.values()]
        return self.done, {name: value.detach().clone() for name, value in self.weights.items()}, moments

    def _restore(self, kept: tuple[int, Weights, list[dict[str, Tensor]]]) -> None:
        self.done, weights, moments = kept
        with torch.no_grad():
            for (name, leaf), moment in zip(self.weights.items(), moments, strict=True):
                leaf.copy_(weights[name])
                self.optimizer.state[leaf] = moment


def budget(total: float, spent: float, cost: float, warmup: int) -> Budget | None:
    """What is left of a budget, as a branch; None where it is no more than the warm-up.

    Args:
        total: The whole budget, in steps of the large model.
        spent: What went into source and operator, in the same unit.
        cost: Of an own step, in the same unit.
        warmup: Own steps.
    """
    steps = int((total - spent) / cost)
    start = max(warmup, int(((1 - DECAY) * total - spent) / cost))
    return Budget(total, start, steps) if start < steps else None
