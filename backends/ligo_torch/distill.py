"""The small model as the teacher of what is fitted: distillation (Hinton et al., arXiv 1503.02531, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from ligo_spec.fitting import FitTask
from ligo_spec.plan import Distill
from ligo_torch.fit import Batches, small_values
from ligo_torch.huggingface import Batch, FunctionalModel, functional_model


@dataclass(frozen=True)
class Distilled:
    """A model whose loss is the task's and its teacher's, as ``ligo_torch.fit.Model``.

    Args:
        student: What is learned.
        teacher: The small model.
        weights: Its parameters, frozen.
        options: How much it counts.
    """

    student: FunctionalModel
    teacher: FunctionalModel
    weights: Mapping[str, Tensor]
    options: Distill

    def parameters(self, canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's parameters by its own names, from canonical tensors."""
        return self.student.parameters(canonical)

    def predicted(self, batch: Batch) -> int:
        """How many tokens or images a batch predicts."""
        return self.student.predicted(batch)

    def loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """``(1 - weight) task + weight T² KL(teacher || student)``, a scalar; the mean over what is predicted."""
        with torch.no_grad():
            theirs = self.teacher.predictions(self.teacher.run(self.weights, batch)[1], batch)
        task, logits = self.student.run(parameters, batch)
        ours = self.student.predictions(logits, batch)[:, : theirs.shape[1]]  # new classes come after the old ones
        weight = self.options.weight
        return (1 - weight) * task + weight * divergence(theirs, ours, self.options.temperature)


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``T² KL(teacher || student)`` of logits ``(n, classes)``, softened by ``T``; the mean over ``n``, in nats.

    The square keeps the size of the gradients, which softening divides by it.
    """
    p, q = (log_softmax(logits.float() / temperature, dim=-1) for logits in (teacher, student))
    return temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)


def taught(task: FitTask, model: FunctionalModel, batches: Batches) -> Distilled | None:
    """The model with its teacher; None where the plan asks for none.

    Raises:
        PlanError: Windows are too long for the small model.
        InputError: The checkpoint lacks the head that the objective needs.
    """
    options = task.options.distill
    if options is None:
        return None
    small = task.growth.small
    batches.examples.require_room(small)
    with torch.random.fork_rng(devices=[]):  # the library draws a random model, which is never used
        teacher = functional_model(small, task.binding, model.objective, batches.device)
    with torch.no_grad():
        weights = teacher.parameters(small_values(task, batches.device))
    return Distilled(model, teacher, weights, options)
