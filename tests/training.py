"""Tiny trainings whose optimizer's state is saved as users have it: by a loop, or by Transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ligo_spec.optimizer
from tests.forward import all_in
from tests.tiny_checkpoints import library, random_model

LEARNING_RATE = 1e-2

Make = Callable[[Any], Any]
"""An optimizer for a model."""


def trainers_optimizer(model: Any, **changes: Any) -> Any:
    """AdamW as the Trainer makes it, by the Trainer's own method: two groups, those of weights that decay first."""
    import torch

    trainer = library().Trainer
    options = {"lr": LEARNING_RATE, "betas": (0.9, 0.99), "eps": 1e-6, **changes}
    stub = SimpleNamespace(
        model=model,
        optimizer=None,
        args=SimpleNamespace(weight_decay=0.1),
        optimizer_cls_and_kwargs=(torch.optim.AdamW, options),
        get_decay_parameter_names=lambda of: trainer.get_decay_parameter_names(None, of),
    )
    return trainer.create_optimizer(stub)


def named_optimizer(model: Any) -> Any:
    """AdamW that knows the names of its parameters."""
    import torch

    return torch.optim.AdamW(model.named_parameters(), lr=LEARNING_RATE)


def batch_of(model: Any, number: int) -> dict[str, Any]:
    """A batch for a model of text or of images."""
    import torch

    generator = torch.Generator().manual_seed(number)
    if hasattr(model.config, "vocab_size"):
        ids = torch.randint(0, model.config.vocab_size, (4, 8), generator=generator)
        return {"input_ids": ids, "labels": ids}
    side, dtype = model.config.image_size, next(model.parameters()).dtype
    pixels = torch.randn((4, model.config.num_channels, side, side), generator=generator).to(dtype)
    return {"pixel_values": pixels, "labels": torch.tensor([0, 1, 0, 1])}


def train(model: Any, optimizer: Any, steps: range) -> list[float]:
    """The losses of some steps; a step's batch belongs to its number."""
    losses = []
    for number in steps:
        optimizer.zero_grad()
        loss = model(**batch_of(model, number)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def trained(
    directory: Path, class_name: str, config: Mapping[str, Any], make: Make = trainers_optimizer, dtype: str = "float32"
) -> tuple[Any, Any]:
    """A checkpoint with ``optimizer.pt`` and ``scheduler.pt`` after three steps; the model and its optimizer."""
    import torch

    with all_in(dtype):
        model = random_model(class_name, config).to(getattr(torch, dtype))
        optimizer = make(model)
        train(model, optimizer, range(3))
    model.save_pretrained(directory)
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    scheduler.last_epoch = 3
    torch.save(scheduler.state_dict(), directory / "scheduler.pt")
    return model, optimizer


@contextmanager
def format_at_hand() -> Iterator[None]:
    """The format for ``optimizer.pt``, also in an environment that was installed before it was there."""
    from ligo_torch.optimizer import open_optimizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ligo_spec.optimizer, "load_plugin", lambda group, name: open_optimizer)
        yield
