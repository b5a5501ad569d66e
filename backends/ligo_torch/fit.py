"""Learn an operator on a model's own loss (LiGO, arXiv 2303.00980, section 3.4), the small weights frozen.

The large weights are computed once per optimizer step and become leaves; their gradients are accumulated over
micro-batches and then pulled back through the operator by one vjp.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ligo_spec.draws import Draws
from ligo_spec.errors import NumericalError, PlanError
from ligo_spec.fitting import FitResult, FitTask, Log
from ligo_spec.layer_kinds import same_kind, sources
from ligo_spec.plan import Fit
from ligo_torch.backend import find_device
from ligo_torch.execution import checkpoint_layers, training_loss
from ligo_torch.huggingface import Batch, FunctionalModel, Objective, choose_objective, functional_model
from ligo_torch.learnable import LearnableOperator
from ligo_torch.text import Ids, Tokens, causal_batch, masked_batch, read_tokens


def fit(task: FitTask, log: Log) -> FitResult:
    """Learn ``task.operator``; see ``ligo_spec.fitting.run_fit``.

    Raises:
        PlanError: The plan asks for what cannot be done (batches that do not divide, no mask token).
        InputError: Text, tokenizer or head are missing.
        NumericalError: A loss or gradient is not finite.
    """
    return learn(*prepare(task), log)


def learn(model: FunctionalModel, learnable: LearnableOperator, batches: Batches, log: Log) -> FitResult:
    """Learn a prepared operator, in place.

    Raises:
        NumericalError: A loss or gradient is not finite.
    """
    options = batches.options
    before = heldout_loss(model, learnable, batches)
    log({"event": "heldout", "step": 0, "loss": before})
    losses = tuple(_train(model, learnable, batches, log))
    after = heldout_loss(model, learnable, batches, fitted=True)
    log({"event": "heldout", "step": options.steps, "loss": after})
    count = sum(parameter.numel() for parameter in learnable.parameters)
    return FitResult(learnable.operator(), before, after, losses, count, torch.get_num_threads())


def evaluate(task: FitTask) -> float:
    """Held-out loss of the model that ``task.operator`` gives as it stands, in nats per predicted token.

    Raises:
        InputError: Text, tokenizer or head are missing.
        NumericalError: The loss is not finite.
    """
    return heldout_loss(*prepare(task))


def evaluate_random(task: FitTask) -> float:
    """Held-out loss of a large model as the library initialises it, under the task's seed."""
    torch.manual_seed(task.seed)
    model, _, batches = prepare(task)
    return mean_loss(model, dict(model.model.named_parameters()), batches.heldout())


def prepare(task: FitTask, tokens: Tokens | None = None) -> tuple[FunctionalModel, LearnableOperator, Batches]:
    """The model, the operator as parameters, and the batches of a fit.

    Args:
        task: The fit.
        tokens: Its text, where that was read already.

    Raises:
        PlanError: The plan asks for what cannot be done.
        InputError: Text, tokenizer or head are missing.
    """
    options = task.options
    if options.data.batch_size % options.micro_batches:
        raise PlanError(
            f"fit.micro_batches {options.micro_batches} does not divide fit.data.batch_size {options.data.batch_size}"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    small = task.growth.small
    vocab_size = small.sizes.get("vocab_size")
    if vocab_size is None:
        raise PlanError(f"fit.data: family {small.family.name} has no vocab_size; it is no model of text")
    objective = choose_objective(options.objective, small.config.get("architectures") or [], small.family.stacks)
    positions = task.growth.large.sizes.get("max_position_embeddings")
    if positions is not None and options.data.seq_len > positions:
        raise PlanError(f"fit.data.seq_len {options.data.seq_len} is more than the model's {positions} positions")
    if tokens is None:
        tokens = read_tokens(options.data, task.train, task.heldout, task.checkpoint, vocab_size)
    model = functional_model(task.growth.large, task.binding, objective, device)
    values = {name: torch.tensor(task.read(name).astype(np.float32), device=device) for name in task.binding.names()}
    family, main = small.family, task.operator.main
    allowed = {stack: same_kind(task.growth, stack, sources(main, family, stack)) for stack in family.stacks}
    learned = LearnableOperator(family, task.operator, values, allowed, task.frozen)
    if options.gradient_checkpointing:
        checkpoint_layers(model.model)
    model = replace(model, step=training_loss(model, options, options.steps))
    return model, learned, Batches(tokens, options, objective, Draws(task.seed), device)


def learning_rate(options: Fit, step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak; ``step`` counts from 0."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / (options.warmup_steps + 1)
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return options.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)


def heldout_loss(
    model: FunctionalModel, learnable: LearnableOperator, batches: Batches, *, fitted: bool = False
) -> float:
    """Mean loss per predicted token over the held-out batches, in nats.

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


def mean_loss(model: FunctionalModel, parameters: Mapping[str, Tensor], batches: Iterable[Batch]) -> float:
    """Mean loss per predicted token of a model with ``parameters``, in nats."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            predicted = model.predicted(batch)
            total += float(model.loss(parameters, batch)) * predicted
            count += predicted
    return total / count


def gradients(model: FunctionalModel, learnable: LearnableOperator, micro_batches: list[Batch]) -> float:
    """One step's loss; leaves its gradient in the operator's parameters.

    The weights are computed once; their gradients are accumulated over the micro-batches, each weighted by the
    tokens that it predicts, then pulled back through the operator at once.
    """
    parameters = model.parameters(learnable.weights())
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    loss = accumulated(model, leaves, micro_batches)
    used = [name for name, leaf in leaves.items() if leaf.grad is not None and parameters[name].requires_grad]
    torch.autograd.backward([parameters[name] for name in used], [leaves[name].grad for name in used])
    return loss


def accumulated(model: FunctionalModel, leaves: Mapping[str, Tensor], micro_batches: Sequence[Batch]) -> float:
    """The loss of a step, cut into micro-batches that count as much as they predict; gradients stay in ``leaves``."""
    counts = [model.predicted(batch) for batch in micro_batches]
    loss, loss_of = 0.0, model.step or model.loss
    for batch, count in zip(micro_batches, counts, strict=True):
        part = loss_of(leaves, batch) * (count / sum(counts))
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _train(model: FunctionalModel, learnable: LearnableOperator, batches: Batches, log: Log) -> Iterator[float]:
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


class Batches:
    """The batches of a fit, on its device; each belongs to the number of its step.

    Args:
        tokens: The text.
        options: How it is cut.
        objective: What the labels are.
        draws: Of places and masks.
        device: Where the batches go.
        name: What the draws' names begin with.
    """

    def __init__(
        self,
        tokens: Tokens,
        options: Fit,
        objective: Objective,
        draws: Draws,
        device: torch.device,
        name: str = "fit",
    ) -> None:
        self.tokens, self.options, self.objective, self.draws, self.device = tokens, options, objective, draws, device
        self.name = name

    def train(self, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        batch = self._batch(self.tokens.train, f"{self.name}.batch.{step}")
        parts = {key: value.chunk(self.options.micro_batches) for key, value in batch.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(self.options.micro_batches)]

    def heldout(self) -> Iterator[Batch]:
        """The held-out batches, always the same."""
        for number in range(self.options.heldout_batches):
            yield self._batch(self.tokens.heldout, f"{self.name}.heldout.{number}")

    def _batch(self, part: Ids, name: str) -> dict[str, Tensor]:
        if self.objective == "causal_lm":
            batch = causal_batch(self.tokens, part, self.options.data, self.draws, name)
        else:
            probability = self.options.mask_probability
            batch = masked_batch(self.tokens, part, self.options.data, self.draws, name, probability)
        return {key: torch.tensor(value, device=self.device) for key, value in batch.items()}
