"""The models that families are held against: those of Transformers, or a module of the tests where it has none.

Both kinds are made from the keys of a ``config.json``, save and load directories by methods of the same names, and give
their outputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from tests.family_table import ROWS, TRANSFORMERS


def model_class(family: str, name: str) -> Any:
    """A class by its name, or a skip where PyTorch or the library is not installed."""
    pytest.importorskip("torch")
    row = ROWS.get(family)
    if row is None or row.library == TRANSFORMERS:
        return getattr(pytest.importorskip(TRANSFORMERS), name)
    return getattr(import_module(row.library), name)


def made(name: str, config: Mapping[str, Any], **more: Any) -> Any:
    """A model of a class, from the keys of a config; random as the class draws it."""
    family = config["model_type"]
    kind = model_class(family, name)
    options = {key: value for key, value in config.items() if key != "model_type"}
    if not is_librarys(kind):
        return kind(options, **more).eval()
    import transformers

    settled = transformers.AutoConfig.for_model(family, **options)
    settled._attn_implementation = settled._experts_implementation = "eager"  # others compute in what they like
    return kind(settled, **more).eval()


def problems_of_loading(family: str, name: str, directory: Path) -> dict[str, Any]:
    """What does not fit when a class loads a checkpoint; empty when all is well."""
    _, info = model_class(family, name).from_pretrained(directory, output_loading_info=True)
    return {key: found for key, found in info.items() if found}


def as_in_file(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names that a file has, from those of the module's parameters.

    The library renames and cuts some families' tensors between file and memory; it is asked to undo that.
    """
    if not is_librarys(type(model)):
        return dict(tensors)
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(tensors)))


def takes(model: Any) -> set[str]:
    """The inputs that a model's forward pass has names for."""
    return set(signature(model.forward).parameters)


def is_librarys(kind: type) -> bool:
    """Whether a class is one of Transformers."""
    return kind.__module__.startswith(TRANSFORMERS)
