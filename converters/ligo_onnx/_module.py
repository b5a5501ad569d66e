"""The library's own module of an architecture, without memory for its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.initialization import no_init_weights

from ligo_spec.architecture import Architecture
from ligo_spec.errors import InputError, Problem
from ligo_torch.huggingface import config_of, model_class

Parameters = Mapping[str, torch.nn.Parameter]


def module_of(architecture: Architecture, where: str, *, pooler: bool = True) -> Any:
    """The class in the config's ``architectures``, its parameters on no device, its buffers real.

    Args:
        architecture: Its config.
        where: The file, for messages.
        pooler: Whether it has the pooling layer that its class adds by default, where the class lets one choose.

    Raises:
        InputError: Transformers has no such class.
    """
    name = (architecture.config.get("architectures") or ["AutoModel"])[0]
    kind = model_class(name)
    if kind is None:
        raise InputError(Problem(where, f"architectures names {name}, which Transformers has not"))
    config = config_of(architecture)
    config.use_cache = False
    with _parameters_without_memory(), no_init_weights():
        if name == "AutoModel":
            kind = transformers.AutoModel._model_mapping[type(config)]
        optional = not pooler and "add_pooling_layer" in signature(kind.__init__).parameters
        made = kind(config, **({"add_pooling_layer": False} if optional else {}))
    return made.eval().requires_grad_(False)


def with_fake_parameters(module: Any, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Give every parameter a dtype and the look of one on the CPU, still without memory; tied ones stay one.

    Args:
        module: Changed in place.
        dtype_of: By the parameter's first name.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    named = {id(value): name for name, value in module.named_parameters()}
    made: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is None:
                continue
            if id(value) not in made:
                with mode:
                    empty = torch.empty(value.shape, dtype=dtype_of(named[id(value)]))
                made[id(value)] = torch.nn.Parameter(empty, requires_grad=False)
            part._parameters[name] = made[id(value)]


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Every parameter goes to the meta device as soon as it is made: one at a time takes memory."""
    register = torch.nn.Module.register_parameter

    def on_meta(module: torch.nn.Module, name: str, value: torch.nn.Parameter | None) -> None:
        if value is not None and not value.is_meta:
            value = torch.nn.Parameter(value.to("meta"), requires_grad=value.requires_grad)
        register(module, name, value)

    torch.nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
