"""Learn an operator on any loss that is written in PyTorch, of whatever model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ligo_spec.errors import PlanError
from ligo_spec.fitting import FitResult, Log
from ligo_spec.job import Small
from ligo_spec.layer_kinds import settled
from ligo_spec.layout import Slot, pack, slots_of
from ligo_spec.learning import learnable
from ligo_spec.operator import Growth, Operator
from ligo_spec.plan import CandidateFit
from ligo_torch.backend import find_device
from ligo_torch.fit import learn, learned_operator, small_values

Loss = Callable[[Mapping[str, Tensor], Any], Tensor]
"""``loss(params, batch)``: the mean over what a batch predicts, one number."""


def fit_loss(
    small: Small,
    growth: Growth,
    start: Operator,
    loss: Loss,
    train: Callable[[int], Sequence[Any]],
    heldout: Sequence[Any],
    *,
    options: CandidateFit | None = None,
    predicted: Callable[[Any], int] = lambda batch: 1,
    device: str = "auto",
    log: Log = lambda record: None,
) -> FitResult:
    """Learn an operator on a loss of your own; the loop is that of ``fit`` in a plan.

    The large weights are computed once a step, whatever the number of micro-batches, and the loss's gradients are
    pulled back through the operator at once::

        small = open_model("small")  # of ligo_spec.job
        growth = Growth(small.architecture, small.architecture.grown({"depth": 12}))
        start = build_operator(growth, None, NoisyStack())
        model = MyModel(depth=12)

        def loss(params, batch):
            pixels, labels = batch
            return cross_entropy(torch.func.functional_call(model, params, (pixels,)), labels)

        found = fit_loss(small, growth, start, loss, train=lambda step: [batches[step]], heldout=others)
        save_operator(found.operator, "operator.safetensors")  # for ligo apply PLAN --operator

    Args:
        small: The small model; its weights are frozen.
        growth: What it becomes.
        start: Where the learning begins.
        loss: Is given the large model's tensors, float32, by the names that its file will have, and a batch. Where the
            operator scales an epsilon of norms, the model behind it must have the scaled one.
        train: Gives the micro-batches of a step, by its number from 0: whatever ``loss`` takes.
        heldout: Batches that the held-out loss is measured on.
        options: Steps, learning rate and what is learned; as a comparison's candidate has them where it is left out.
        predicted: How much a batch counts, where batches are of different sizes.
        device: ``auto``, ``cpu`` or ``cuda``: where the tensors are. Batches are yours to put there.
        log: Is given a record a step, and one per held-out loss.

    Raises:
        PlanError: There is nothing to learn or no held-out batch, ``options.distill`` is set, or the loss is not one
            number.
        NumericalError: A loss or gradient is not finite.
    """
    options = options or CandidateFit()
    if options.distill is not None:
        raise PlanError("distill: a loss of your own has no logits to compare; put the small model's into the loss")
    if not heldout:
        raise PlanError("heldout: no batch to measure the held-out loss on")
    made = learnable(growth, start, options.learn)
    if not made.count:
        raise PlanError("nothing is left to learn; the start has no arrays, so ask for learn.structure: dense or new")
    growth, place = settled(growth, start), find_device(device)
    by_template = {slot.template: slot for slot in small.binding.slots.values()}
    slots = tuple(one for slot in by_template.values() for one in slots_of(slot, growth.large))
    parameters = learned_operator(growth, made.operator, small_values(small, place), made.frozen)
    return learn(_Own(slots, loss, predicted), parameters, _Batches(options, train, heldout), log)


@dataclass(frozen=True)
class _Own:
    """A loss as ``ligo_torch.fit.Model``."""

    slots: Sequence[Slot]
    function: Loss
    count: Callable[[Any], int]

    def parameters(self, canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {slot.name: pack(slot.taken(canonical), slot.steps, torch) for slot in self.slots}

    def predicted(self, batch: Any) -> int:
        return self.count(batch)

    def loss(self, parameters: Mapping[str, Tensor], batch: Any) -> Tensor:
        found = self.function(parameters, batch)
        if not isinstance(found, Tensor) or found.ndim:
            shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise PlanError(f"loss gives {shape}; it must be one number, a tensor of shape ()")
        return found


@dataclass(frozen=True)
class _Batches:
    """Batches as ``ligo_torch.fit.Source``."""

    options: CandidateFit
    of_step: Callable[[int], Sequence[Any]]
    others: Sequence[Any]
    unit: str = "a prediction"

    def train(self, step: int) -> Sequence[Any]:
        return self.of_step(step)

    def heldout(self) -> Iterator[Any]:
        return iter(self.others)
