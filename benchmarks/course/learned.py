"""Ways to learn an operator that plans do not have, since none of them has paid so far (docs/experiments.md).

``Together`` learns the operator along with the weights: the gradients of the first steps of training also move the
operator, and the weights go with it, so that no step is for the operator alone. ``look_ahead`` fits for the future: it
trains a copy for some steps and pulls back the gradient that it finds there (first-order, as Nichol et al., arXiv
1803.02999, have it for MAML).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from course.data import Data
from course.training import BETAS, CLIP_NORM, Runner
from ligo_torch.fit import pull_back
from ligo_torch.huggingface import FunctionalModel
from ligo_torch.learnable import LearnableOperator

WARMUP = 5
"""Steps of the operator's warm-up."""


def pulled_back(model: FunctionalModel, operator: LearnableOperator, leaves: Mapping[str, Tensor]) -> None:
    """Leave in the operator's parameters what the gradients in ``leaves`` come to, clipped."""
    pull_back(model.parameters(operator.weights()), leaves)
    torch.nn.utils.clip_grad_norm_(operator.parameters, CLIP_NORM)


def grown(model: FunctionalModel, operator: LearnableOperator) -> dict[str, Tensor]:
    """The large weights as the operator has them now."""
    with torch.no_grad():
        return {name: value.detach().clone() for name, value in model.parameters(operator.weights()).items()}


class Together(Runner):
    """A training whose first steps move the operator too.

    Arguments are those of ``Runner``, and:

    Args:
        operator: What the weights start from.
        steps: How many steps move it.
        operator_rate: Its peak learning rate; it falls to nothing over the steps.
    """

    def __init__(
        self,
        model: FunctionalModel,
        operator: LearnableOperator,
        steps: int,
        operator_rate: float,
        *args: Any,
        **options: Any,
    ) -> None:
        self.at = grown(model, operator)
        super().__init__(model, self.at, *args, **options)
        self.operator, self.steps, self.operator_rate = operator, steps, operator_rate
        self.learning = torch.optim.Adam(operator.parameters, lr=operator_rate, betas=BETAS)

    def step(self, rate: float) -> float:
        """A step of training, and one of the operator while it is learned."""
        number = self.done
        loss = super().step(rate)
        if number < self.steps and math.isfinite(loss):
            self.learning.zero_grad(set_to_none=True)
            pulled_back(self.model, self.operator, self.weights)
            share = min(1.0, (number + 1) / (WARMUP + 1)) * (1 - number / self.steps)
            self._move(self.operator_rate * share)
        return loss

    def _move(self, rate: float) -> None:
        for group in self.learning.param_groups:
            group["lr"] = rate
        self.learning.step()
        now = grown(self.model, self.operator)
        with torch.no_grad():
            for name, leaf in self.weights.items():
                leaf += now[name] - self.at[name]
        self.at = now


@dataclass(frozen=True)
class LookAhead:
    """A fit for the future.

    Args:
        steps: Of the operator.
        ahead: Steps of training before each of them.
        rate: Of these.
        operator_rate: Of the operator.
    """

    steps: int
    ahead: int
    rate: float
    operator_rate: float

    @property
    def passes(self) -> int:
        """Steps of training that it costs."""
        return self.steps * (self.ahead + 1)

    def fit(self, model: FunctionalModel, operator: LearnableOperator, data: Data, seed: int) -> None:
        """Learn the operator, in place."""
        learning = torch.optim.Adam(operator.parameters, lr=self.operator_rate, betas=BETAS)
        for number in range(self.steps):
            options: dict[str, Any] = {"seed": seed, "rate": self.rate, "warmup": 2, "weight_decay": 0.0}
            runner = Runner(model, grown(model, operator), data, **options, names=f"ahead.{number}")
            runner.advance(self.ahead)
            batch = data.batch(f"ahead.{number}.last", seed)
            runner.optimizer.zero_grad(set_to_none=True)
            model.loss(runner.weights, batch).backward()  # type: ignore[no-untyped-call]
            learning.zero_grad(set_to_none=True)
            pulled_back(model, operator, runner.weights)
            falling = 0.1 + 0.9 * (1 + math.cos(math.pi * number / self.steps)) / 2
            for group in learning.param_groups:
                group["lr"] = self.operator_rate * falling * min(1.0, (number + 1) / 4)
            learning.step()
