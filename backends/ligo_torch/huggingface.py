"""Hugging Face models as plain functions of their parameters: ``loss(params, batch)``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError, PlanError, printable
from ligo_spec.layout import Binding, Slot, layout_of, pack, slots_of, todays_name
from ligo_torch.text import IGNORED

Objective = Literal["causal_lm", "masked_lm", "image_classification"]

Batch = Mapping[str, Tensor]

LossFunction = Callable[[Mapping[str, Tensor], Batch], Tensor]
"""``loss(params, batch)``: what a fit minimises."""

UNSAFE_KEYS = ("auto_map", "quantization_config")
"""Keys of a config that could name code, or that describe a file and not a model."""

GROUPED_BYTES = 16
"""Rows and columns of matrices in torch's grouped products are whole multiples of so many bytes."""

_CLASSES = {
    "causal_lm": transformers.AutoModelForCausalLM,
    "masked_lm": transformers.AutoModelForMaskedLM,
    "image_classification": transformers.AutoModelForImageClassification,
}

_ENDINGS: Mapping[Objective, tuple[str, ...]] = {
    "causal_lm": ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel"),
    "masked_lm": ("ForMaskedLM", "ForPreTraining"),
    "image_classification": ("ForImageClassification", "ForImageClassificationWithTeacher"),
}
"""How the names of the classes end that were trained on an objective."""


def config_of(architecture: Architecture) -> transformers.PreTrainedConfig:
    """The library's config object for an architecture, from its ``config.json`` without anything that names code.

    Raises:
        PlanError: The library has no model of this type.
    """
    kept = {k: v for k, v in architecture.config.items() if not k.startswith("_") and k not in UNSAFE_KEYS}
    model_type = kept.pop("model_type", architecture.family.name)
    if model_type not in transformers.CONFIG_MAPPING:
        raise PlanError(f"Transformers has no models of type {printable(model_type)}")
    return transformers.AutoConfig.for_model(model_type, **kept)


def runnable(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The model; where its experts' sizes are none for the library's grouped products, they run one after another."""
    experts = [value for value in model.parameters() if value.ndim == 3]
    if any(side * value.element_size() % GROUPED_BYTES for value in experts for side in value.shape[1:]):
        model.set_experts_implementation("eager")
    return model


def model_class(name: str) -> Any:
    """The model class of that name; None for anything else that the library offers."""
    found = getattr(transformers, name, None) if name.isidentifier() else None
    a_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if a_model or name == "AutoModel" else None


def choose_objective(asked: str, architectures: Sequence[str], stacks: Collection[str] = ()) -> Objective:
    """The objective of a fit: as asked, or by the class that the checkpoint was saved from.

    Args:
        asked: What the plan says.
        architectures: Classes that the config names.
        stacks: The family's stacks of layers.

    Raises:
        PlanError: ``auto``, and no class in ``architectures`` tells; or the model has several stacks.
    """
    if len(stacks) > 1:
        raise PlanError(
            f"fit.objective: models of several stacks of layers ({', '.join(stacks)}) have no objective yet; "
            f"{' and '.join(_ENDINGS)} are for models of one"
        )
    for objective in _ENDINGS:
        if asked == objective:
            return objective
    for name in architectures:
        for objective, endings in _ENDINGS.items():
            if name.endswith(endings):
                return objective
    raise PlanError(
        f"fit.objective: auto cannot tell from architectures {list(architectures)}; say {' or '.join(_ENDINGS)}"
    )


@dataclass(frozen=True, eq=False)
class Fused:
    """A parameter that files hold in several tensors, as the library puts together experts, gates and the like.

    Args:
        slots: Those tensors.
        order: For every entry of the parameter, its place among all entries of those tensors, one after the other.
    """

    slots: Sequence[Slot]
    order: Tensor

    def value(self, canonical: Mapping[str, Tensor]) -> Tensor:
        """The parameter, from canonical tensors."""
        stored = [pack(slot.taken(canonical), slot.steps, torch).flatten() for slot in self.slots]
        return torch.cat(stored)[self.order]


@dataclass(frozen=True)
class FunctionalModel:
    """A library model that is called with parameters from outside.

    Args:
        model: The module, in evaluation mode (no dropout); its own parameters are never used.
        slots: How canonical tensors lie in the module's parameters.
        fused: Parameters that files hold in several tensors, by name.
        objective: What its loss is.
    """

    model: torch.nn.Module
    slots: Sequence[Slot]
    fused: Mapping[str, Fused]
    objective: Objective

    @property
    def templates(self) -> set[str]:
        """The canonical tensors that it has."""
        slots = [*self.slots, *(slot for fused in self.fused.values() for slot in fused.slots)]
        return {template for slot in slots for template in slot.canonical}

    def parameters(self, canonical: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's parameters by its own names, from canonical tensors."""
        own = {slot.name: pack(slot.taken(canonical), slot.steps, torch) for slot in self.slots}
        return own | {name: fused.value(canonical) for name, fused in self.fused.items()}

    def predicted(self, batch: Batch) -> int:
        """How many tokens or images a batch predicts; a causal model drops the first label of every window."""
        labels = batch["labels"][:, 1:] if self.objective == "causal_lm" else batch["labels"]
        return int((labels != IGNORED).sum())

    def loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The library's own loss on a batch, a scalar."""
        return self.run(parameters, batch)[0]

    def predictions(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits of what a batch predicts, ``(predicted, classes)``."""
        labels = batch["labels"]
        if self.objective == "causal_lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return logits[labels != IGNORED]

    def run(self, parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The library's own loss on a batch, a scalar, and the logits, ``(batch, ..., classes)``."""
        inputs = dict(batch)
        labels = None if self.labelled else inputs.pop("labels")
        try:
            out = torch.func.functional_call(self.model, dict(parameters), kwargs=inputs)
        except IndexError as error:  # more tokens than positions, where the family cannot say how many are left
            raise InputError(f"the model cannot take windows of {batch['labels'].shape[1]} tokens: {error}") from error
        loss: Tensor = out.loss if labels is None else torch.nn.functional.cross_entropy(out.logits, labels)
        return loss, out.logits

    @cached_property
    def labelled(self) -> bool:
        """Whether the library's class takes labels, and computes a loss; one that does not predicts by its logits."""
        return "labels" in signature(self.model.forward).parameters


def functional_model(
    architecture: Architecture, binding: Binding, objective: Objective, device: torch.device
) -> FunctionalModel:
    """The library's model of an architecture, ready for parameters from outside.

    Raises:
        PlanError: The library has no such model.
        InputError: The checkpoint lacks a tensor that the objective needs (its head).
    """
    config = config_of(architecture)
    if type(config) not in _CLASSES[objective]._model_mapping:
        raise PlanError(f"fit.objective: Transformers has no {objective} model of type {config.model_type}")
    config.use_cache = False  # nothing is generated, and a cache copies all keys and values
    model = _CLASSES[objective].from_config(config, dtype=torch.float32)
    model = runnable(model.to(device).eval().requires_grad_(False))
    names = [name for name, _ in model.named_parameters()]
    slots = _slots_for(architecture, binding, names)
    covered = {slot.name for slot in slots}
    fused = {name: _fused(architecture, binding, model, name) for name in names if name not in covered}
    missing = [name for name, made in fused.items() if made is None]
    if missing:
        raise InputError(f"the checkpoint has no {', '.join(missing[:5])}, which {objective} needs")
    return FunctionalModel(model, slots, {name: made for name, made in fused.items() if made is not None}, objective)


def _fused(architecture: Architecture, binding: Binding, model: torch.nn.Module, name: str) -> Fused | None:
    """How the tensors of a file make up a parameter of the module; None where the checkpoint has them not all.

    The library is asked to take the parameter apart as it would for a file, with numbers of places for values.
    """
    shape = model.get_parameter(name).shape
    places = torch.arange(shape.numel()).reshape(shape)
    held = revert_weight_conversion(model, {name: places})
    wanted = list(held)
    slots = {slot.name: slot for slot in _slots_for(architecture, binding, wanted)}
    if not held.keys() <= slots.keys():
        return None
    order = torch.cat([held[key].flatten() for key in wanted]).argsort().reshape(shape)
    device = next(model.parameters()).device
    return Fused([slots[key] for key in wanted], order.to(device))


def _slots_for(architecture: Architecture, binding: Binding, names: Sequence[str]) -> list[Slot]:
    """The slots whose tensors are parameters of the module; prefixes are matched by their ends.

    A file without the module's prefix (``wte.weight``) still fills ``transformer.wte.weight``.
    """
    named = {todays_name(layout_of(architecture), name): name for name in names}  # the library's may be an old one
    by_template = {slot.template: slot for slot in binding.slots.values()}
    slots = []
    for slot in by_template.values():
        for wanted in slots_of(slot, architecture):
            matches = [name for name in named if name == wanted.name or name.endswith("." + wanted.name)]
            stripped = wanted.name.partition(".")[2]
            matches = matches or [name for name in named if stripped and name == stripped]
            slots += [replace(wanted, name=named[name]) for name in matches[:1]]
    return slots
