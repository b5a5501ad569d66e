"""From a fit's data, of whatever kind, to examples for its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ligo_spec.errors import InputError, PlanError, Problem
from ligo_spec.fitting import FitTask
from ligo_spec.flops import head_width
from ligo_torch.examples import Examples
from ligo_torch.huggingface import Objective, config_of
from ligo_torch.images import open_images, shape_of
from ligo_torch.text import read_tokens
from ligo_torch.token_files import read_token_files
from ligo_torch.windows import Windows

OBJECTIVES: Mapping[str, tuple[Objective, ...]] = {
    "text": ("causal_lm", "masked_lm"),
    "tokens": ("causal_lm", "masked_lm"),
    "dataset": ("causal_lm", "masked_lm"),
    "images": ("image_classification",),
}
"""What can be learned from each kind."""


def open_data(task: FitTask, objective: Objective) -> Examples:
    """The examples of a fit.

    Raises:
        PlanError: The objective cannot be learned from such data, or the model is not for them.
        InputError: A file is refused, or the tokenizer is missing.
    """
    kind = task.options.data.kind
    if objective not in OBJECTIVES[kind]:
        suitable = [name for name, objectives in OBJECTIVES.items() if objective in objectives]
        raise PlanError(
            f"fit.objective: {objective} is learned from data of kind {' or '.join(suitable)}, fit.data has kind {kind}"
        )
    return _OPEN[kind](task, objective)


def _text(task: FitTask, objective: Objective) -> Examples:
    data = task.options.data
    assert data.kind == "text", "the table has looked"
    tokens = read_tokens(data, task.train, task.heldout, task.checkpoint, _vocab_size(task))
    return Windows(tokens, data, _masking(task, objective))


def _tokens(task: FitTask, objective: Objective) -> Examples:
    data = task.options.data
    assert data.kind == "tokens", "the table has looked"
    tokens = read_token_files(data, task.train, task.heldout, task.checkpoint, _vocab_size(task))
    return _with_mask(Windows(tokens, data, _masking(task, objective)))


def _dataset(task: FitTask, objective: Objective) -> Examples:
    data = task.options.data
    assert data.kind == "dataset", "the table has looked"
    if len(task.train) != 1:
        raise PlanError(f"fit.data.path names {len(task.train)} datasets; it must be one directory")
    try:
        from ligo_torch.rows import read_dataset
    except ModuleNotFoundError as error:
        raise PlanError(f"fit.data: kind dataset needs {error.name}; pip install 'ligo-spec[hf]'") from error
    tokens = read_dataset(data, task.train[0], task.checkpoint, _vocab_size(task))
    return _with_mask(Windows(tokens, data, _masking(task, objective)))


def _with_mask(windows: Windows) -> Windows:
    if windows.masking is not None and windows.tokens.mask is None:
        raise PlanError("fit.objective: masked_lm needs a mask token; say fit.data.mask_token_id")
    return windows


def _images(task: FitTask, objective: Objective) -> Examples:
    data, small = task.options.data, task.growth.small
    assert data.kind == "images", "the table has looked"
    shape = shape_of(small, config_of(small))
    _require_rows(task, shape.labels)
    return open_images(data, task.train, task.heldout, task.checkpoint, shape)


def _require_rows(task: FitTask, labels: int) -> None:
    """Hold the head to the config: no size of a family says how many labels there are.

    Raises:
        InputError: They disagree.
    """
    small = task.growth.small
    for template in task.binding.templates():
        if head_width(small, template) and len(task.read(template)) != labels:
            rows = len(task.read(template))
            message = f"says {labels} labels (num_labels, id2label), but {template} has rows for {rows}"
            raise InputError(Problem(f"{task.checkpoint}/config.json", message))


def _vocab_size(task: FitTask) -> int:
    small = task.growth.small
    vocab_size = small.sizes.get("vocab_size")
    if vocab_size is None:
        raise PlanError(f"fit.data: family {small.family.name} has no vocab_size; it is no model of text")
    return vocab_size


def _masking(task: FitTask, objective: Objective) -> float | None:
    return task.options.mask_probability if objective == "masked_lm" else None


_OPEN: Mapping[str, Callable[[FitTask, Objective], Examples]] = {
    "text": _text,
    "tokens": _tokens,
    "dataset": _dataset,
    "images": _images,
}
