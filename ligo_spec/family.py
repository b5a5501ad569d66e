"""The family document (``ligo/family/1``): all that is to know of an architecture, as data.

See SPEC.md section 2. A family states, per canonical tensor, which space each dimension writes (``out``), reads
(``in``) or multiplies (``gain``); which relations hold between the spaces; and how a file lays the tensors out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ligo_spec import expressions, family_rules
from ligo_spec.documents import Document, Misfit, load, loads
from ligo_spec.errors import InputError, PlanError

Role = Literal["out", "in", "gain"]

LAYER = family_rules.LAYER
"""Stands for the layer index in the names of tensors."""


class Dim(NamedTuple):
    """One dimension of a tensor: the space it touches, and how."""

    space: str
    role: Role


def _short_size(value: Any) -> Any:
    return {"config": value} if isinstance(value, str) else value


def _short_tensor(value: Any) -> Any:
    return {"dims": value} if isinstance(value, list | tuple) else value


def _short_entry(value: Any) -> Any:
    return {"is": (value,)} if isinstance(value, str) else value


def _short_list(value: Any) -> Any:
    return (value,) if isinstance(value, str | dict) else value


def _short_function(value: Any) -> Any:
    return {"default": value} if isinstance(value, str) else value


class SizeRule(Document):
    """Where a size comes from: a key of ``config.json``, else an expression over other sizes."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [key], "properties": {key: {"type": "string"}}} for key in ("config", "default")]
        }
    )

    config: str | None = None
    """Key of ``config.json``; absent for a size that is always computed."""
    default: str | None = None
    """Expression over other sizes, where the key is absent or null."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.config is None and self.default is None:
            raise ValueError("a size needs a config key, a default, or both")
        if self.default is not None:
            expressions.names_in(self.default)
        return self


class FlagRule(Document):
    """A yes or no of ``config.json``."""

    config: str
    default: bool


class FunctionRule(Document):
    """The name of an activation function: fixed, or a key of ``config.json``."""

    config: str | None = None
    default: str


class Space(Document):
    """A vector space of activations that tensors touch."""

    axes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Sizes whose product is the space's size, outermost first; ``*`` is whatever the file has."""
    per: Literal["model", "layer"] = "model"
    """``layer``: every layer has a space of its own, so maps may differ from layer to layer."""
    fixed: bool = False
    """Entries are indices with a meaning of their own (token ids, positions, labels): only the identity maps them."""


class Norm(Document):
    """A norm: reads one space, writes another, with a gain and perhaps a bias."""

    kind: Literal["layer_norm", "rms_norm"]
    gain: str
    reads: str
    writes: str
    eps: str
    """Key of ``config.json`` that holds its epsilon."""


class Attention(Document):
    """Softmax attention with whole heads: who asks, who answers, and what comes out."""

    query: str
    key: str
    value: str
    context: str
    rotary: Literal["none", "half"] = "none"
    """``half``: rotary positions that pair coordinate ``p`` with ``p + head_dim / 2`` (Hugging Face's layout)."""


class Activation(Document):
    """An elementwise function on a space; ``gated`` when several tensors write it and are multiplied."""

    space: str
    function: Annotated[FunctionRule, BeforeValidator(_short_function, json_schema_input_type=FunctionRule | str)]
    """Its name in Hugging Face configs, or the key of ``config.json`` that has it."""
    gated: bool = False


class Tie(Document):
    """Tensors that are one tensor when a flag is set; the first is the one that files store."""

    when: str
    same: Annotated[tuple[str, ...], Field(min_length=2)]


class Relations(Document):
    """What the certificate and the methods need to know beyond the tensors."""

    norms: tuple[Norm, ...] = ()
    attention: tuple[Attention, ...] = ()
    activations: tuple[Activation, ...] = ()
    ties: tuple[Tie, ...] = ()


_Dims = Annotated[
    tuple[Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[^.]+\.(?:out|in|gain)$"})], ...],
    Field(min_length=1),
]


class Tensor(Document):
    """A canonical tensor: what each dimension touches, in the order ``(d_out, d_in)``."""

    dims: _Dims
    """``space.role`` per dimension."""
    optional: bool = False
    """May be absent from a file (heads, pooler)."""
    when: str | None = None
    """A flag: the tensor must be there when it is set, and may be absent otherwise."""

    def required(self, flags: Mapping[str, bool]) -> bool:
        """Whether a file must have the tensor."""
        return flags[self.when] if self.when is not None else not self.optional

    @cached_property
    def touches(self) -> tuple[Dim, ...]:
        """The dimensions, parsed."""
        return tuple(Dim(*text.split(".")) for text in self.dims)  # type: ignore[arg-type]


class Split(Document):
    """Cut the first dimension into equal parts, one per canonical tensor, in order."""

    split: Annotated[int, Field(ge=2)]


Step = Literal["transpose"] | Split


class Entry(Document):
    """How one tensor of a file becomes canonical ones: the steps, in order, from the file's side."""

    steps: tuple[Step, ...] = ()
    is_: Annotated[
        tuple[str, ...],
        BeforeValidator(_short_list, json_schema_input_type=Annotated[tuple[str, ...], Field(min_length=1)] | str),
        Field(min_length=1, alias="is"),
    ]
    """The canonical tensors that it holds, in the order of the split."""
    for_: Annotated[str | None, Field(alias="for")] = None
    """Holds only for this class in the config's ``architectures`` (one name, two meanings)."""

    def splits_into(self, count: int) -> bool:
        """Whether the steps give ``count`` tensors."""
        parts = [step.split for step in self.steps if isinstance(step, Split)]
        return len(parts) <= 1 and count == (parts[0] if parts else 1)


OneEntry = Annotated[Entry, BeforeValidator(_short_entry, json_schema_input_type=Entry | str)]
_Entries = Annotated[tuple[OneEntry, ...], Field(min_length=1)]


class Layout(Document):
    """A file's own names and shapes; one declaration serves reading and writing."""

    base: tuple[str, ...] = ("",)
    """What ``{base}`` in a name may stand for; a file uses one of them throughout."""
    aliases: dict[str, str] = {}
    """Old endings of names, and what they are called now."""
    tensors: dict[
        str,
        Annotated[
            tuple[OneEntry, ...],
            BeforeValidator(_short_list, json_schema_input_type=_Entries | Entry | str),
            Field(min_length=1),
        ],
    ]
    """By name in the file; where one name has several meanings, the first entry that holds."""
    drop: dict[str, str] = {}
    """Names that are no weights (buffers), and why they are not written."""


class Family(Document):
    """An architecture, complete and in both directions."""

    spec: Literal["ligo/family/1"]
    """What this file is, and by which version of the specification."""
    name: str
    """Hugging Face ``model_type``."""
    sizes: dict[str, Annotated[SizeRule, BeforeValidator(_short_size, json_schema_input_type=SizeRule | str)]]
    """Every size, by the name that plans use: the key of ``config.json`` that has it, or a rule."""
    flags: dict[str, FlagRule] = {}
    """Every yes or no that decides which tensors there are."""
    defaults: dict[str, float] = {}
    """Values that Transformers takes for keys of ``config.json`` that are not there: epsilons of norms."""
    requires: dict[str, bool | int | str | None] = {}
    """Config keys that, where present, must have this value: the family describes no other variant."""
    divides: tuple[tuple[str, str], ...] = ()
    """Pairs of sizes: the first must divide the second."""
    layers: str = "num_hidden_layers"
    """The size that counts the layers."""
    residual: str = "residual"
    """The space that the layers add to."""
    output: str
    """The space of the last hidden state."""
    spaces: dict[str, Space]
    """The spaces of activations, by name."""
    relations: Relations = Relations()
    """Norms, attention, activations and ties."""
    tensors: dict[str, Annotated[Tensor, BeforeValidator(_short_tensor, json_schema_input_type=Tensor | _Dims)]]
    """Canonical tensors by name, ``{i}`` for the layer: their dimensions, or a rule."""
    layouts: dict[str, Layout]
    """How files lay the tensors out, by name; ``hf`` is that of Hugging Face."""

    def misfits(self) -> Iterator[Misfit]:
        """Names that are used and not declared, or declared and not used as they must be."""
        return family_rules.misfits(self)

    def readers(self, space: str) -> list[str]:
        """Canonical tensors that read ``space``."""
        return [name for name, tensor in self.tensors.items() if Dim(space, "in") in tensor.touches]

    def writers(self, space: str) -> list[str]:
        """Canonical tensors that write ``space``."""
        return [name for name, tensor in self.tensors.items() if Dim(space, "out") in tensor.touches]


def at_layer(template: str, layer: int | None) -> str:
    """A tensor's name in one layer: ``at_layer("layers.{i}.attn.q.weight", 3)``."""
    return template if layer is None else template.replace(LAYER, str(layer))


@lru_cache(maxsize=4096)
def template_pattern(template: str) -> re.Pattern[str]:
    """An anchored pattern for a name with ``{i}``; the group ``i`` is the layer index."""
    before, found, after = template.partition(LAYER)
    number = r"(?P<i>0|[1-9][0-9]{0,5})" if found else ""
    return re.compile(re.escape(before) + number + re.escape(after))


def family_names() -> list[str]:
    """Names of the families that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml"))


def load_family(name_or_path: str | Path, /) -> Family:
    """A shipped family by its name (``llama``), or one of your own by its path (``./mine.yaml``).

    Raises:
        PlanError: There is no such family, or the file is not a valid one.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return load(Path(text), Family)
    if text not in family_names():
        raise PlanError(f"no family is named {text!r}; shipped families: {', '.join(family_names())}")
    return _shipped_family(text)


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family of a checkpoint, by the ``model_type`` of its ``config.json``.

    Raises:
        InputError: No shipped family has that name.
    """
    if not config:
        raise InputError(f"{where}: not there, or empty; sizes and family are read from it")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in family_names():
        raise InputError(
            f"{where}: model_type {model_type!r} is no family that we know ({', '.join(family_names())}); "
            "declare it in a family file of your own and name it in the plan as source.family"
        )
    return _shipped_family(model_type)


def _shipped() -> Any:
    return files("ligo_spec") / "families"


@lru_cache
def _shipped_family(name: str) -> Family:
    return loads((_shipped() / f"{name}.yaml").read_text("utf-8"), Family, name=f"{name}.yaml")
