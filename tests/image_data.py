"""Tiny classifiers of images, labelled images on the disk, and plans that fit on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.family import load_family
from ligo_spec.family_sizes import small_configs
from tests.family_table import ROWS
from tests.tiny_checkpoints import plan_file, saved

CLASSES = {
    "ViTForImageClassification": "vit",
    "DeiTForImageClassification": "deit",
    "DeiTForImageClassificationWithTeacher": "deit",
    "Dinov2ForImageClassification": "dinov2",
}

CHANNELS, SIDE, LABELS = 2, 7, 3

MEAN, STD = (0.4, 0.6), (0.2, 0.3)


def config(class_name: str) -> dict[str, Any]:
    """A tiny config of a class."""
    family = CLASSES[class_name]
    return {"model_type": family, **small_configs(load_family(family))[-1], **ROWS[family].config}


def pictures(count: int = 40, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images ``(n, side, side, channels)`` whose brightness is that of their class, sorted by class."""
    generator = np.random.default_rng(seed)
    labels = np.sort(np.arange(count) % LABELS)
    noise = generator.integers(0, 80, (count, SIDE, SIDE, CHANNELS))
    return (noise + 80 * labels[:, None, None, None]).astype(np.uint8), labels


def prepare(directory: Path, class_name: str = "ViTForImageClassification", **fit: Any) -> Path:
    """A small model, labelled images, and a plan that doubles its layers."""
    directory.mkdir(exist_ok=True)
    settled = config(class_name)
    saved(directory / "small", class_name, settled)
    images, labels = pictures()
    np.savez(directory / "data.npz", images=images, labels=labels)
    return plan(directory, 2 * settled["num_hidden_layers"], **fit)


def plan(directory: Path, layers: int, *, name: str = "plan.yaml", **fit: Any) -> Path:
    """Another plan beside the first."""
    top = {key: fit.pop(key) for key in ("compare", "operator") if key in fit}
    data = {"kind": "images", "path": "data.npz", "batch_size": 8, "mean": MEAN, "std": STD, **fit.pop("data", {})}
    options = {"steps": 3, "heldout_batches": 2, "device": "cpu", "data": data, **fit}
    return plan_file(
        directory,
        name,
        target={"num_hidden_layers": layers},
        fit=options,
        **{"operator": {"depth": "noisy_stack"}, **top},
    )
