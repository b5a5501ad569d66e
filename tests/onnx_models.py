"""ONNX files of the tests: what is in them by the library's own loader, and what onnxruntime makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Arrays = Mapping[str, npt.NDArray[Any]]


def initializers(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every initializer of a file, by name."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    found = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert len(found) == len(model.graph.initializer)
    return found


def run(path: Path, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The outputs of onnxruntime, by name."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {value.name: feed[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def feeds(config: Mapping[str, Any], shapes: list[tuple[int, int]]) -> list[dict[str, npt.NDArray[Any]]]:
    """Inputs of several sizes: masked on the left, so that every kind of model takes them; or images.

    Args:
        config: The model's config.
        shapes: ``(batch, length)``.
    """
    rng = np.random.default_rng(0)
    if "image_size" in config:
        sides = (config["num_channels"], config["image_size"], config["image_size"])
        return [{"pixel_values": rng.standard_normal((batch, *sides)).astype(np.float32)} for batch, _ in shapes]
    found = []
    for batch, length in shapes:
        mask = np.ones((batch, length), dtype=np.int64)
        mask[0, : length // 3] = 0
        ids = rng.integers(0, config["vocab_size"], (batch, length))
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def agree(ours: npt.NDArray[Any], theirs: npt.NDArray[Any], feed: Arrays) -> float:
    """Largest difference, as a share of the largest value, at tokens that are not masked."""
    mask = feed.get("attention_mask")
    if mask is not None and ours.shape[:2] == mask.shape:
        ours, theirs = ours[mask.astype(bool)], theirs[mask.astype(bool)]
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))


def library_outputs(directory: Path, class_name: str, feed: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The outputs of Transformers for a checkpoint that it reads itself."""
    import torch

    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, class_name).from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model(**{name: torch.tensor(value) for name, value in feed.items()})
    return {name: value.numpy() for name, value in out.items() if isinstance(value, torch.Tensor)}
