"""How a step of training computes its loss: in which precision, compiled or not, and which layers it computes twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ligo_spec.errors import PlanError
from ligo_spec.plan import Fit
from ligo_torch.fit import Model
from ligo_torch.huggingface import Batch, LossFunction

COMPILE_FROM = 1000
"""Forward passes from which ``compile: auto`` compiles. It takes about a minute, and saves a tenth to a third of each
of these passes; at a fifth of a second each, a thousand repay it."""


@dataclass(frozen=True)
class Executed:
    """A model whose loss is computed as steps of training compute it; held-out losses are the model's own.

    Args:
        model: The model.
        run: Its loss, under the plan's ``precision`` and ``compile``.
    """

    model: Model
    run: LossFunction

    def parameters(self, canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's parameters by its own names, from canonical tensors."""
        return self.model.parameters(canonical)

    def predicted(self, batch: Batch) -> int:
        """How much a batch counts."""
        return self.model.predicted(batch)

    def loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The mean over what a batch predicts, a scalar."""
        return self.run(parameters, batch)


def executed(model: Model, options: Fit, steps: int, device: torch.device) -> Executed:
    """A model under the plan's ``precision`` and ``compile``.

    Args:
        model: The model.
        options: The plan's ``fit``.
        steps: Of all trainings with it together.
        device: Where it is.

    Raises:
        PlanError: It should be compiled, and layers computed again.
    """
    loss: LossFunction = model.loss
    if compiles(options, device, steps):
        loss = _compiled(loss)
    return Executed(model, loss if options.precision == "float32" else _in_bfloat16(loss, device))


def compiles(options: Fit, device: torch.device, steps: int) -> bool:
    """Whether the loss is compiled; ``auto``: on a GPU, for ``COMPILE_FROM`` forward passes or more.

    Raises:
        PlanError: Layers are computed again too, which torch does not compile.
    """
    if options.compile == "always" and options.gradient_checkpointing:
        raise PlanError("fit: compile: always and gradient_checkpointing: true exclude one another; leave out one")
    if options.compile != "auto":
        return options.compile == "always"
    enough = steps * options.micro_batches >= COMPILE_FROM
    return device.type == "cuda" and enough and not options.gradient_checkpointing


def checkpoint_layers(model: torch.nn.Module) -> None:
    """From now on, the model's layers keep what goes into them, and compute the rest again for their gradients.

    The library's own way asks for training mode, with its dropout, and would compute again with the module's own
    parameters, as those from outside are gone by then.

    Raises:
        PlanError: It has no layers that the library can compute again.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise PlanError(f"fit.gradient_checkpointing: {type(model).__name__} has no layers to compute again; use false")
    for layer in layers:
        _compute_again(layer)


def _compute_again(layer: torch.nn.Module) -> None:
    forward = layer.forward

    def run(parameters: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        layer.forward = forward
        try:
            return torch.func.functional_call(layer, dict(parameters), args, dict(kwargs))
        finally:
            layer.forward = checkpointed

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        parameters = dict(layer.named_parameters())  # those from outside, while the model is called with them
        return checkpoint(run, parameters, args, kwargs, use_reentrant=False, preserve_rng_state=False)

    layer.forward = checkpointed


def _in_bfloat16(loss: LossFunction, device: torch.device) -> LossFunction:
    def run(parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return loss(parameters, batch)

    return run


def _compiled(loss: LossFunction) -> LossFunction:
    torch.compiler.reset()  # code of models that were trained before; there is a limit to how much torch keeps
    compiled = torch.compile(loss)

    def run(parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        try:
            return compiled(parameters, batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise PlanError(f"fit.compile: torch cannot compile the loss: {reason}; use never") from error

    return run
