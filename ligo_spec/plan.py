"""The plan document (``ligo/plan/1``): what to grow, to what size, how. What changes the result stands here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ligo_spec.complaints import did_you_mean
from ligo_spec.documents import Document, Misfit
from ligo_spec.errors import PlanError, printable
from ligo_spec.fit_data import Data, WindowData
from ligo_spec.formats import FormatName
from ligo_spec.hub import PATTERN, on_hub, parse_reference
from ligo_spec.learning import Learn
from ligo_spec.methods import DEPTH_METHODS, WIDTH_METHODS, DepthMethod, WidthMethod, without_options
from ligo_spec.plan_paths import PATH_PATTERN, PlanPath, inside
from ligo_spec.presets import PRESETS

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _short_method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


def _short_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _source(path: str) -> str:
    if not on_hub(path):
        return inside(path)
    parse_reference(path)
    return path


def _bytes(value: Any) -> Any:
    match = re.fullmatch(r"\s*([0-9]{1,15})\s*([KMG]?I?B?)\s*", value.upper()) if isinstance(value, str) else None
    if match and match[2] in _UNITS:
        return int(match[1]) * _UNITS[match[2]]
    if isinstance(value, str):
        raise ValueError("a size in bytes is an integer, or one with a unit such as 500MB, 5GB or 2GiB")
    return value


def parse_bytes(text: str) -> int:
    """A positive number of bytes, as a plan states it: ``5GB``, ``2GiB``, ``1000``.

    Raises:
        PlanError: It is none.
    """
    try:
        found = _bytes(text)
    except ValueError as error:
        raise PlanError(f"{printable(text)}: {error}") from error
    if found < 1:
        raise PlanError(f"{printable(text)}: a file holds at least 1 byte")
    return int(found)


def _family(name: str) -> str:
    return inside(name) if name.endswith((".yaml", ".yml")) else name


# What the validators above accept, for editors. The loader does not look at it.
_SOURCE_PATTERN = f"{PATH_PATTERN}|^{PATTERN}$"
_BYTES_PATTERN = r"^\s*(?=0*[1-9])[0-9]{1,15}\s*(?:(?:[KMGkmg][Ii]?)?[Bb])?\s*$"

DtypeName = Literal["keep", "float64", "float32", "float16", "bfloat16"]
"""dtypes that a plan can ask for."""

SourcePath = Annotated[str, AfterValidator(_source), WithJsonSchema({"type": "string", "pattern": _SOURCE_PATTERN})]
_ShortWidth = Annotated[str, WithJsonSchema({"type": "string", "enum": list(without_options(WIDTH_METHODS))})]
_ShortDepth = Annotated[str, WithJsonSchema({"type": "string", "enum": list(without_options(DEPTH_METHODS))})]
_ShortBytes = Annotated[str, WithJsonSchema({"type": "string", "pattern": _BYTES_PATTERN})]


class Source(Document):
    """The small model."""

    path: SourcePath
    """A directory or a file, relative to the plan; or a model on the Hub, ``hf://owner/name@revision``."""
    family: Annotated[str, AfterValidator(_family)] | None = None
    """A shipped family's name, or the path of a family file; found in ``config.json`` where it is left out."""
    drop: tuple[str, ...] = ()
    """Tensors that the family does not declare and that the grown model leaves out (``*`` matches any text)."""
    copy_: Annotated[tuple[str, ...], Field(alias="copy")] = ()
    """Tensors that the family does not declare and that the grown model takes over as they are."""


class OperatorChoice(Document):
    """Where the maps start: a width and a depth method, or a preset that names both."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["preset"], "properties": {"preset": {"type": "string"}}},
            "then": {"properties": {"width": {"type": "null"}, "depth": {"type": "null"}}},
        }
    )

    preset: (
        Literal[
            "ligo",
            "stackbert",
            "net2net",
            "hypercloning",
            "bert2bert",
            "staged",
            "lemon",
            "gstack",
            "llama_pro",
            "solar",
            "mslt",
            "midas",
        ]
        | None
    ) = None
    """A paper's method, as a named fragment; ``ligo explain`` prints it in full."""
    width: Annotated[
        WidthMethod | None,
        BeforeValidator(_short_method, json_schema_input_type=WidthMethod | _ShortWidth | None),
    ] = None
    """How the spaces are widened: a method's name, or its options under ``method``."""
    depth: Annotated[
        DepthMethod | None,
        BeforeValidator(_short_method, json_schema_input_type=DepthMethod | _ShortDepth | None),
    ] = None
    """How the layers are mixed: a method's name, or its options under ``method``."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.preset is not None and (self.width is not None or self.depth is not None):
            raise ValueError("a preset names width and depth itself; give the preset, or width and depth")
        return self

    def resolved(self) -> OperatorChoice:
        """The same with the preset spelled out."""
        if self.preset is None:
            return self
        return OperatorChoice.model_validate_json(PRESETS[self.preset])


Objective = Literal["auto", "causal_lm", "masked_lm", "image_classification"]
"""What a model is fitted to do; ``auto`` is for the class that the checkpoint names to say."""


class Distill(Document):
    """The small model teaches what is fitted (Hinton et al., arXiv 1503.02531).

    The loss is ``(1 - weight) task + weight T² KL(small || large)`` at temperature ``T``, over what is predicted.
    """

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the teacher's loss."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """What logits are divided by before they are compared."""


class Fit(Document):
    """How the operator is learned. The small weights are frozen; maps and depth rows are trained."""

    backend: Literal["torch"] = "torch"
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimizer steps."""
    objective: Objective = "auto"
    """``auto``: by the class in ``architectures``."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of tokens that a masked-language-modelling step predicts (Devlin et al., arXiv 1810.04805)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW. Ten times as much lowers the loss of the moment further, and left small models worse
    off after training (docs/experiments.md)."""
    warmup_steps: Annotated[int, Field(ge=0, le=10)] = 5
    """Linear warm-up; at most 10, since the published 10 000 keep the operator where it starts (SPEC.md 6.3)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient over all operator parameters."""
    micro_batches: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Parts that a step's batch is cut into, to save memory; the result is the same."""
    heldout_batches: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Batches that the held-out loss is measured on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPU threads; results are bit-equal only at equal numbers of threads."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of a step's forward and backward pass; ``bfloat16``: mixed, all that is learned and held-out losses float32."""
    compile: Literal["auto", "never", "always"] = "auto"
    """Whether torch compiles a step's loss; ``auto``: on a GPU, for 1000 forward passes or more."""
    gradient_checkpointing: bool = False
    """Layers are computed again for their gradients, to save memory; the result is the same. Not with ``compile``."""
    learn: Learn = Learn()
    """What is learned, in which structure, and what stays."""
    distill: Distill | None = None
    """The small model teaches too; null for the task alone. Held-out losses are the task's."""
    data: Data


class CandidateFit(Document):
    """How a candidate's operator is learned before it is trained on; what is left out is as in a plan's ``fit``."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Optimizer steps; what they cost is taken off the candidate's budget."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0, le=10)] = 5
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    learn: Learn = Learn()
    distill: Distill | None = None


class Candidate(OperatorChoice):
    """A start to be compared: width and depth, or a preset, and whether it is fitted first."""

    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    """What tables call it; made from its methods where it is left out."""
    fit: CandidateFit | None = None
    """The fit that comes before the training; null for none."""


class Budget(Document):
    """What every candidate may spend, in ``steps`` or in ``tokens`` of training."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name], "properties": {name: {"type": "integer"}}} for name in ("steps", "tokens")]
        }
    )

    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """As many whole steps as they make."""

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("a budget is steps or tokens; give one of them")
        return self


class Compare(Document):
    """Which start suits this model and data: each is trained for as many FLOPs, and ranked by the loss after them."""

    backend: Literal["torch"] = "torch"
    candidates: tuple[Candidate, ...] = ()
    """The starts; where there are none, the plan's own and those of SPEC.md 6.5."""
    budget: Budget = Budget(steps=100)
    """Fits come off it, at their cost in FLOPs."""
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (3e-4, 1e-3, 3e-3)
    """Peak rates of AdamW; every candidate is tried at all of them."""
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Linear warm-up after growth; constant from then on."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the steps, the last ones, in which the rate falls linearly, so that losses can be compared."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of matrices; vectors have none."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """Repetitions, from the plan's seed on: other draws of maps and other batches."""
    halving: bool = False
    """After a third of the budget, the worse half of the candidates drops out."""
    heldout_batches: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Held-out batches to choose by, and as many others to report."""
    objective: Objective | None = None
    """As in ``fit``; where it and the keys below are left out, those of the plan's ``fit``, or else its defaults."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] | None = None
    micro_batches: Annotated[int, Field(ge=1, le=10_000)] | None = None
    device: Literal["auto", "cpu", "cuda"] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    compile: Literal["auto", "never", "always"] | None = None
    gradient_checkpointing: bool | None = None
    data: Data | None = None

    def budget_steps(self, data: Data) -> int:
        """How many whole steps of training the budget is worth; tokens are worth none where data has no windows."""
        if self.budget.steps is not None:
            return self.budget.steps
        tokens = data.batch_size * data.seq_len if isinstance(data, WindowData) else 0
        return (self.budget.tokens or 0) // tokens if tokens else 0


class OptimizerState(Document):
    """The optimizer's state of the small model, to be grown with the weights (SPEC.md 7.5)."""

    path: PlanPath = "optimizer.pt"
    """A file, relative to the directory of the small model."""
    format: Literal["torch"] = "torch"
    """``torch``: what ``torch.save`` made of an optimizer's ``state_dict()``, the Trainer's ``optimizer.pt`` too."""
    order: Literal["trainer", "model"] = "trainer"
    """What numbers mean where the file has no ``param_names``: ``trainer``: the two groups of Transformers' Trainer;
    ``model``: one group, in the order of the model's parameters."""
    reset: Literal["none", "new", "all"] = "none"
    """``new``: only the first copy of every old entry keeps its moments (SPARKLING); ``all``: none does."""
    new: Literal["fill", "zero"] = "fill"
    """Second moments of entries without an old state: the mean of the tensor's, or zero."""


class Output(Document):
    """The large model."""

    path: PlanPath
    """A directory that does not exist yet, relative to the plan."""
    format: FormatName = "safetensors"
    """Of the weights' files; ``config.json``, tokenizer and the like are the same beside all of them."""
    dtype: DtypeName = "keep"
    """``keep``: every tensor in its source's dtype."""
    max_shard_size: Annotated[
        int,
        BeforeValidator(_bytes, json_schema_input_type=Annotated[int, Field(ge=1)] | _ShortBytes),
        Field(ge=1),
    ] = 5 * 10**9
    """Bytes in one file of weights; an integer, or with a unit (``5GB``)."""


class Checks(Document):
    """What is checked, and what a failure means."""

    lossless: Literal["report", "require"] = "report"
    """``require``: refuse before any weight is read, unless the certificate holds."""
    reference: bool = False
    """Recompute one tensor of every kind with the float64 reference and compare."""
    forward: Literal["auto", "require", "skip"] = "auto"
    """Compare forward passes through Transformers; ``auto``: where it is installed and has models of the kind."""


class Plan(Document):
    """A growth plan."""

    spec: Literal["ligo/plan/1"]
    """What this file is, and by which version of the specification."""
    source: Annotated[Source, BeforeValidator(_short_path, json_schema_input_type=Source | SourcePath)]
    """The small model: a path, or its parts."""
    target: dict[str, Annotated[int, Field(ge=1)]]
    """Sizes of the large model, by their names in the family; what stays the same may be left out."""
    operator: OperatorChoice
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything that is drawn: maps, batches, masks."""
    fit: Fit | None = None
    optimizer: Annotated[
        OptimizerState | None,
        BeforeValidator(_short_path, json_schema_input_type=OptimizerState | PlanPath | None),
    ] = None
    """The optimizer's state to grow too: its path, or its parts."""
    compare: Compare | None = None
    """What ``ligo compare`` does; other commands do not look at it."""
    output: Annotated[Output, BeforeValidator(_short_path, json_schema_input_type=Output | PlanPath)]
    """The large model: a path, or its parts."""
    checks: Checks = Checks()

    def misfits(self) -> Iterator[Misfit]:
        """Names and rates of a comparison that stand twice."""
        if self.compare is None:
            return
        names = [candidate.name for candidate in self.compare.candidates]
        for number, name in enumerate(names):
            if name is not None and name in names[:number]:
                yield ("compare", "candidates", number, "name"), f"{printable(repr(name))} is there twice"
        rates = self.compare.learning_rates
        for number, rate in enumerate(rates):
            if rate in rates[:number]:
                yield ("compare", "learning_rates", number), f"{rate:g} is there twice"

    def resolved(self) -> Plan:
        """The plan with every short form and preset spelled out: what is stored beside a result."""
        return self.model_copy(update={"operator": self.operator.resolved()})


def preset_names() -> tuple[str, ...]:
    """Names of the presets."""
    return tuple(PRESETS)


def target_problems(target: Mapping[str, int], sizes: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a target that the family does not have or always computes, with what is wrong."""
    problems = {}
    for key in target:
        if key not in sizes:
            problems[key] = f"no size of this family{did_you_mean(key, list(sizes))}; it has {', '.join(sizes)}"
        elif sizes[key].config is None:
            problems[key] = f"is computed ({sizes[key].default}) and cannot be set"
    return problems
