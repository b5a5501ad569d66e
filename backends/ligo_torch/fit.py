"""Learn an operator on a model's own loss (LiGO, arXiv 2303.00980, section 3.4), the small weights frozen.

The large weights are computed once per optimizer step and become leaves; their gradients are accumulated over
micro-batches and then pulled back through the operator by one vjp.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ligo_spec.draws import Draws
from ligo_spec.errors import NumericalError, PlanError
from ligo_spec.fitting import FitResult, FitTask, Log
from ligo_spec.job import Small
from ligo_spec.layer_kinds import same_kind, sources
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import CandidateFit, Fit
from ligo_torch.backend import find_device
from ligo_torch.examples import Arrays, Examples
from ligo_torch.learnable import LearnableOperator

if TYPE_CHECKING:  # an operator can be learned on any loss, without Transformers
    from ligo_torch.huggingface import Batch, FunctionalModel

Schedule = Fit | CandidateFit
"""How many steps there are, and how long each is."""


def fit(task: FitTask, log: Log) -> FitResult:
    """Learn ``task.operator``; see ``ligo_spec.fitting.run_fit``.

    Raises:
        PlanError: The plan asks for what cannot be done (batches that do not divide, no mask token).
        InputError: Data, tokenizer or head are missing or refused.
        NumericalError: A loss or gradient is not finite.
    """
    from ligo_torch.distill import taught
    from ligo_torch.execution import executed

    model, learnable, batches = prepare(task)
    lesson = taught(task, model, batches) or model
    trained = executed(lesson, task.options, task.options.steps, batches.device)
    return learn(model, learnable, batches, log, trained)


class Model(Protocol):
    """What a loss is computed through; see ``ligo_torch.huggingface.FunctionalModel``."""

    def parameters(self, canonical: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """What ``loss`` is given, from the large model's canonical tensors."""
        ...

    def predicted(self, batch: Any, /) -> int:
        """How much a batch counts."""
        ...

    def loss(self, parameters: Mapping[str, Tensor], batch: Any, /) -> Tensor:
        """The mean over what a batch predicts, a scalar."""
        ...


def learn(
    model: Model, learnable: LearnableOperator, batches: Source, log: Log, trained: Model | None = None
) -> FitResult:
    """Learn a prepared operator, in place.

    Args:
        model: Held-out losses are its.
        learnable: The operator.
        batches: What it is learned on.
        log: Is told of every step.
        trained: What is minimised, where that is not ``model``'s loss.

    Raises:
        NumericalError: A loss or gradient is not finite.
    """
    options = batches.options
    before = heldout_loss(model, learnable, batches)
    log({"event": "heldout", "step": 0, "loss": before})
    losses = tuple(_train(trained or model, learnable, batches, log))
    after = heldout_loss(model, learnable, batches, fitted=True)
    log({"event": "heldout", "step": options.steps, "loss": after})
    count = sum(parameter.numel() for parameter in learnable.parameters)
    return FitResult(learnable.operator(), before, after, losses, count, torch.get_num_threads(), batches.unit)


def evaluate(task: FitTask) -> float:
    """Held-out loss of the model that ``task.operator`` gives as it stands, in nats per prediction.

    Raises:
        InputError: Data, tokenizer or head are missing or refused.
        NumericalError: The loss is not finite.
    """
    return heldout_loss(*prepare(task))


def evaluate_random(task: FitTask) -> float:
    """Held-out loss of a large model as the library initialises it, under the task's seed."""
    torch.manual_seed(task.seed)
    model, _, batches = prepare(task)
    return mean_loss(model, dict(model.model.named_parameters()), batches.heldout())


def prepare(task: FitTask, examples: Examples | None = None) -> tuple[FunctionalModel, LearnableOperator, Batches]:
    """The model, the operator as parameters, and the batches of a fit.

    Args:
        task: The fit.
        examples: Its data, where they were opened already.

    Raises:
        PlanError: The plan asks for what cannot be done.
        InputError: Data, tokenizer or head are missing or refused.
    """
    from ligo_torch.execution import checkpoint_layers
    from ligo_torch.huggingface import choose_objective, functional_model
    from ligo_torch.open_data import open_data

    options = task.options
    if options.data.batch_size % options.micro_batches:
        raise PlanError(
            f"fit.micro_batches {options.micro_batches} does not divide fit.data.batch_size {options.data.batch_size}"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    small = task.growth.small
    objective = choose_objective(options.objective, small.config.get("architectures") or [], small.family.stacks)
    if examples is None:
        examples = open_data(task, objective)
    examples.require_room(task.growth.large)
    model = functional_model(task.growth.large, task.binding, objective, device)
    learned = learned_operator(task.growth, task.operator, small_values(task, device), task.frozen)
    if options.gradient_checkpointing:
        checkpoint_layers(model.model)
    return model, learned, Batches(examples, options, Draws(task.seed), device)


def small_values(small: FitTask | Small, device: torch.device) -> dict[str, Tensor]:
    """The small model's tensors by canonical name, float32."""
    return {name: torch.tensor(small.read(name).astype(np.float32), device=device) for name in small.binding.names()}


def learned_operator(
    growth: Growth, operator: Operator, values: Mapping[str, Tensor], frozen: Collection[int]
) -> LearnableOperator:
    """An operator as parameters over the small model's tensors."""
    family, main = growth.small.family, operator.main
    allowed = {stack: same_kind(growth, stack, sources(main, family, stack)) for stack in family.stacks}
    return LearnableOperator(family, operator, values, allowed, frozen)


def learning_rate(options: Schedule, step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak; ``step`` counts from 0."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / (options.warmup_steps + 1)
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)


def heldout_loss(model: Model, learnable: LearnableOperator, batches: Source, *, fitted: bool = False) -> float:
    """Mean loss per prediction over the held-out batches, in nats.

    Raises:
        NumericalError: It is not finite; ``fitted`` says whose fault that is.
    """
    with torch.no_grad():
        loss = mean_loss(model, model.parameters(learnable.weights()), batches.heldout())
    if not math.isfinite(loss) and fitted:
        raise NumericalError(f"the held-out loss after the fit is {loss}; lower fit.learning_rate")
    if not math.isfinite(loss):
        raise NumericalError(f"the held-out loss is {loss}; the operator's start does not give a working model")
    return loss


def mean_loss(model: Model, parameters: Mapping[str, Tensor], batches: Iterable[Any]) -> float:
    """Mean loss per prediction of a model with ``parameters``, in nats."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            predicted = model.predicted(batch)
            total += float(model.loss(parameters, batch)) * predicted
            count += predicted
    return total / count


def gradients(model: Model, learnable: LearnableOperator, micro_batches: Sequence[Any]) -> float:
    """One step's loss; leaves its gradient in the operator's parameters.

    The weights are computed once; their gradients are accumulated over the micro-batches, each weighted by the
    predictions that it makes, then pulled back through the operator at once.
    """
    parameters = model.parameters(learnable.weights())
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    loss = accumulated(model, leaves, micro_batches)
    pull_back(parameters, leaves)
    return loss


def pull_back(parameters: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> None:
    """Leave in the operator's parameters what the gradients in ``leaves`` come to, by one vjp.

    Args:
        parameters: The large model's, as the operator computed them.
        leaves: The same, detached, with gradients.
    """
    used = [name for name, leaf in leaves.items() if leaf.grad is not None and parameters[name].requires_grad]
    torch.autograd.backward([parameters[name] for name in used], [leaves[name].grad for name in used])


def accumulated(model: Model, leaves: Mapping[str, Tensor], micro_batches: Sequence[Any]) -> float:
    """The loss of a step, cut into micro-batches that count as much as they predict; gradients stay in ``leaves``."""
    counts = [model.predicted(batch) for batch in micro_batches]
    loss = 0.0
    for batch, count in zip(micro_batches, counts, strict=True):
        part = model.loss(leaves, batch) * (count / sum(counts))
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _train(model: Model, learnable: LearnableOperator, batches: Source, log: Log) -> Iterator[float]:
    options = batches.options
    rate, decay = options.learning_rate, options.weight_decay
    # One pass over memory. It takes gradients to lie as parameters do, which those that autograd sets always do.
    optimizer = torch.optim.AdamW(learnable.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    for step in range(options.steps):
        rate = learning_rate(options, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = gradients(model, learnable, batches.train(step))
        norm = float(torch.nn.utils.clip_grad_norm_(learnable.parameters, options.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericalError(
                f"the fit diverged at step {step + 1} of {options.steps}: loss {loss}, gradient norm {norm}, learning "
                f"rate {rate:.3g}; lower fit.learning_rate (post-norm models need 2-3 times less)"
            )
        optimizer.step()
        record = {"step": step + 1, "steps": options.steps, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
        log({"event": "step", **record})
        yield loss


class Source(Protocol):
    """What an operator is learned on."""

    @property
    def options(self) -> Schedule:
        """How it is learned."""
        ...

    @property
    def unit(self) -> str:
        """What a loss is per: ``a token``, ``an image``."""
        ...

    def train(self, step: int, /) -> Sequence[Any]:
        """The micro-batches of a step; steps count from 0."""
        ...

    def heldout(self) -> Iterable[Any]:
        """The held-out batches, always the same."""
        ...


class Batches:
    """The batches of a fit, on its device; each belongs to the number of its step.

    Args:
        examples: What they are made of.
        options: How many.
        draws: Of places, and of masks.
        device: Where the batches go.
        name: What the draws' names begin with.
    """

    def __init__(self, examples: Examples, options: Fit, draws: Draws, device: torch.device, name: str = "fit") -> None:
        self.examples, self.options, self.draws, self.device, self.name = examples, options, draws, device, name

    @property
    def unit(self) -> str:
        """What a loss is per."""
        return self.examples.unit

    def train(self, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        batch = self.placed(self.examples.drawn("train", self.draws, f"{self.name}.batch.{step}"))
        parts = {key: value.chunk(self.options.micro_batches) for key, value in batch.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(self.options.micro_batches)]

    def heldout(self) -> Iterator[Batch]:
        """The held-out batches, always the same."""
        for number in range(self.options.heldout_batches):
            yield self.placed(self.examples.drawn("heldout", self.draws, f"{self.name}.heldout.{number}"))

    def placed(self, batch: Arrays) -> dict[str, Tensor]:
        """A batch as tensors on the device."""
        return {key: torch.tensor(value, device=self.device) for key, value in batch.items()}
