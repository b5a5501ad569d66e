"""The family document (``ligo/family/1``): all that is to know of an architecture, as data.

See SPEC.md section 2. A family states, per canonical tensor, which space each dimension writes (``out``), reads
(``in``) or multiplies (``gain``); which relations hold between the spaces; and how a file lays the tensors out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ligo_spec import expressions, family_rules
from ligo_spec.documents import Document, Misfit, load, loads
from ligo_spec.errors import InputError, PlanError
from ligo_spec.file_layout import EXPERT, Entry, Layout
from ligo_spec.relations import NumberRule, Relations, holds

AnyDocument = TypeVar("AnyDocument", bound=Document)

Role = Literal["out", "in", "gain"]

LAYER = family_rules.LAYER
"""Stands for the layer index in the names of tensors."""

EVERY = ".*"
"""After a stack's name: every tensor of its layers."""


class Dim(NamedTuple):
    """One dimension of a tensor: the space it touches, and how."""

    space: str
    role: Role


def _short_size(value: Any) -> Any:
    return {"config": value} if isinstance(value, str) else value


def _short_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _short_tensor(value: Any) -> Any:
    return {"dims": value} if isinstance(value, list | tuple) else value


class SizeRule(Document):
    """Where a size comes from: a key of ``config.json``, else an expression over other sizes."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [key], "properties": {key: {"type": "string"}}} for key in ("config", "default")]
        }
    )

    config: str | None = None
    """Key of ``config.json``; absent for a size that is always computed."""
    also: tuple[str, ...] = ()
    """Other keys that may hold it: what other versions of a library call it."""
    default: str | None = None
    """Expression over other sizes, where the key is absent or null."""

    def stated(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a config that say it, and what they say."""
        keys = () if self.config is None else (self.config, *self.also)
        return {key: config[key] for key in keys if config.get(key) is not None}

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.config is None and self.default is None:
            raise ValueError("a size needs a config key, a default, or both")
        if self.config is None and self.also:
            raise ValueError("a size has other config keys only where it has one")
        if self.default is not None:
            expressions.names_in(self.default)
        return self


class FlagRule(Document):
    """A yes or no: a boolean of ``config.json``, one of its values, or whether two sizes differ."""

    config: str | None = None
    """Key of ``config.json``."""
    default: bool | str = False
    """Where the key is absent or null; the name of another flag: as that one."""
    equals: str | int | tuple[str | int, ...] | None = None
    """The flag is set when the key has this value, or one of these; else the key holds true or false itself."""
    differ: tuple[str, str] | None = None
    """Two sizes: the flag is set when they differ."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if (self.config is None) == (self.differ is None):
            raise ValueError("a flag needs a config key, or two sizes that may differ")
        return self


class Stack(Document):
    """Layers, one after another, that add to one stream. Its name stands before ``.{i}`` in the names of tensors."""

    count: str = "num_hidden_layers"
    """The size that counts them."""
    residual: str = "residual"
    """The space that they add to."""


class LayerList(Document):
    """A key of ``config.json`` with one entry a layer, and what it is where the key is not there.

    Every ``period``-th layer, counted from ``start``, or every layer from number ``after`` on, has the entry
    ``value``, the others ``otherwise``. With ``listed`` the key does not list entries but the numbers of the layers
    that have this one; the others have what the pattern says.
    """

    listed: str | int | None = None
    """The entry of the layers whose numbers the key lists."""
    period: NumberRule | None = None
    start: int | None = None
    """``period - 1`` where it is left out."""
    after: NumberRule | None = None
    stack: str | None = None
    """The stack whose layers it is about; may be left out where there is one."""
    when: str | None = None
    """A flag, or ``not`` and a flag: where it does not hold, all layers have ``otherwise``."""
    value: str | int | None = None
    otherwise: str | int | None = None


class Same(Document):
    """Another space that a space is one with, under a condition."""

    space: str
    when: str
    """A flag, or ``not`` and a flag."""


class Repeat(Document):
    """New entries of an index space are copies of the old ones, in turn."""

    repeat: Annotated[int, Field(ge=0)]
    """The first that is copied; those before it have a meaning of their own (positions of padding)."""


class Space(Document):
    """A vector space of activations that tensors touch."""

    axes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Sizes whose product is the space's size, outermost first; ``*`` is whatever the file has."""
    per: str = "model"
    """The name of a stack: every layer of it has a space of its own, so maps may differ from layer to layer."""
    fixed: bool = False
    """Entries are indices with a meaning of their own (token ids, positions, labels): the old ones stay in place."""
    new: Literal["mean"] | Repeat | None = None
    """What new entries of a fixed space are: the mean of the old (tokens), or copies (positions); null: none may come.
    """
    same_as: Same | None = None
    """The space is another one under a condition: an embedding that is not projected is the residual stream."""


_Names = Annotated[tuple[str, ...], Field(min_length=1)]

_Dims = Annotated[
    tuple[Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[^.]+\.(?:out|in|gain)$"})], ...],
    Field(min_length=1),
]


class Tensor(Document):
    """A canonical tensor: what each dimension touches, in the order ``(d_out, d_in)``."""

    dims: _Dims
    """``space.role`` per dimension."""
    optional: bool | str = False
    """May be absent from a file (heads, pooler); a name: absent or there together with all tensors of that name."""
    when: str | None = None
    """A flag, or ``not`` and a flag: the tensor is there when it holds, and nobody's when it does not."""
    not_in: tuple[int, ...] = ()
    """Layers that do not have it."""
    only_in: dict[str, str | int] = {}
    """A per-layer list and an entry: layers whose entry is another one do not have it."""
    offset: float = 0.0
    """What is stored is the value less this: 1 for gains that are stored as their difference from 1."""

    @cached_property
    def touches(self) -> tuple[Dim, ...]:
        """The dimensions, parsed."""
        return tuple(Dim(*text.split(".")) for text in self.dims)  # type: ignore[arg-type]


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
    layer_lists: dict[str, LayerList] = {}
    """Keys of ``config.json`` with one entry a layer: layers of different entries are of different kinds."""
    recounted: tuple[str, ...] = ()
    """Keys of ``config.json`` that count or name layers and that the library makes up: left out where layers change."""
    defaults: dict[str, float] = {}
    """Values that Transformers takes for keys of ``config.json`` that are not there: epsilons of norms."""
    requires: dict[str, bool | int | str | None] = {}
    """Config keys that, where present, must have this value: the family describes no other variant."""
    divides: tuple[tuple[str, str], ...] = ()
    """Pairs of sizes: the first must divide the second."""
    stacks: Annotated[dict[str, Stack], Field(min_length=1)] = {"layers": Stack()}
    """The stacks of layers, by name: an encoder and a decoder have one each."""
    output: Annotated[_Names, BeforeValidator(_short_list, json_schema_input_type=_Names | str), Field(min_length=1)]
    """The space of the last hidden state; of several, the first that a model has (an encoder may come alone)."""
    spaces: dict[str, Space]
    """The spaces of activations, by name."""
    relations: Relations = Relations()
    """Norms, attention, activations and ties."""
    tensors: dict[str, Annotated[Tensor, BeforeValidator(_short_tensor, json_schema_input_type=Tensor | _Dims)]]
    """Canonical tensors by name, ``{i}`` for the layer: their dimensions, or a rule."""
    layouts: dict[str, Layout]
    """How files lay the tensors out, by name; ``hf`` is that of Hugging Face."""

    def __repr__(self) -> str:
        """Its name: all that it says is in its file."""
        return f"<family {self.name}>"

    def misfits(self) -> Iterator[Misfit]:
        """Names that are used and not declared, or declared and not used as they must be."""
        return family_rules.misfits(self)

    def readers(self, space: str) -> list[str]:
        """Canonical tensors that read ``space``."""
        return [name for name, tensor in self.tensors.items() if Dim(space, "in") in tensor.touches]

    def writers(self, space: str) -> list[str]:
        """Canonical tensors that write ``space``, those that scale what is written too."""
        wanted = Dim(space, "out"), Dim(space, "gain")
        return [name for name, tensor in self.tensors.items() if any(dim in tensor.touches for dim in wanted)]

    def stack_of(self, template: str) -> str | None:
        """The stack whose layers have the tensor; None for one outside the layers."""
        name, found, _ = template.partition("." + LAYER)
        return name if found else None

    def stack_of_key(self, key: str) -> str | None:
        """The stack that a depth map is for: that of its template, or the one that ``STACK.*`` names."""
        return key.removesuffix(EVERY) if key.endswith(EVERY) else self.stack_of(key)

    @property
    def residuals(self) -> tuple[str, ...]:
        """The spaces that layers add to, each once."""
        return tuple(dict.fromkeys(stack.residual for stack in self.stacks.values()))

    def stack_of_list(self, key: str) -> str:
        """The stack that a per-layer list is about."""
        return self.layer_lists[key].stack or next(iter(self.stacks))

    @property
    def routed(self) -> tuple[tuple[str, str], ...]:
        """Sizes of every routing, each pair once: how many experts are chosen, and how many there are."""
        pairs = ((item.chosen, self.spaces[item.space].axes[0]) for item in self.relations.routing)
        return tuple(dict.fromkeys(pairs))

    def in_layer(self, template: str, layer: int | None) -> bool:
        """Whether a layer of the model that the family is settled for has the tensor (outside the layers: yes)."""
        assert not self.tensors[template].only_in, "the lists of a config settle which layers have the tensor"
        return layer is None or layer not in self.tensors[template].not_in

    def layers_of(self, template: str, sizes: Mapping[str, int]) -> list[int | None]:
        """The layers that have a tensor in a model of these sizes; None for one outside the layers."""
        stack = self.stack_of(template)
        if stack is None:
            return [None]
        return [i for i in range(sizes[self.stacks[stack].count]) if self.in_layer(template, i)]

    @property
    def by_list(self) -> bool:
        """Whether the lists of a config say which layers have which tensors."""
        return any(tensor.only_in for tensor in self.tensors.values())

    def at(self, flags: Mapping[str, bool], lists: Mapping[str, Sequence[Any]] | None = None) -> Family:
        """The family of models with these flags: conditions are settled, only what is there is left.

        Args:
            flags: Every flag.
            lists: The per-layer lists, which settle what layers lack; left out where they are not known yet.
        """
        lacking = {} if lists is None else {name: _lacking(tensor, lists) for name, tensor in self.tensors.items()}
        key = tuple(sorted(flags.items())), lists is None and self.by_list, tuple(lacking.items())
        if key not in self._variants:
            self._variants[key] = _variant(self, flags, lacking)
        return self._variants[key]

    def only(self, templates: Collection[str]) -> Family:
        """The family of models that have just these tensors: spaces and relations of others are left out."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in templates}
        gone = _touched(self.tensors) - _touched(
            tensors
        )  # not those that only a relation names: what a norm over heads writes

        def kept(item: Any) -> bool:
            return getattr(item, "gain", None) in (None, *tensors) and not item.names & gone

        relations = {key: tuple(filter(kept, items)) for key, items in self.relations if key != "ties"}
        spaces = {name: space for name, space in self.spaces.items() if name not in gone}
        update = {"tensors": tensors, "spaces": spaces, "relations": self.relations.model_copy(update=relations)}
        output = tuple(name for name in self.output if name not in gone)
        return self.model_copy(update={**update, "output": output})

    @cached_property
    def _variants(self) -> dict[Any, Family]:
        return {}


def _touched(tensors: Mapping[str, Tensor]) -> set[str]:
    return {dim.space for tensor in tensors.values() for dim in tensor.touches}


def _lacking(tensor: Tensor, lists: Mapping[str, Sequence[Any]]) -> tuple[int, ...]:
    """The layers that lack a tensor because their entry of a list is not the tensor's."""
    wanted = tensor.only_in.items()
    return tuple(sorted({i for key, entry in wanted for i, found in enumerate(lists[key]) if found != entry}))


def _variant(family: Family, flags: Mapping[str, bool], lacking: Mapping[str, tuple[int, ...]]) -> Family:
    there = {name: tensor for name, tensor in family.tensors.items() if holds(tensor.when, flags)}
    same = {name: space.same_as for name, space in family.spaces.items() if space.same_as is not None}
    direct = {name: rule.space for name, rule in same.items() if holds(rule.when, flags)}
    one = {name: _end(name, direct) for name in direct}

    def renamed(document: AnyDocument) -> AnyDocument:
        changed = {key: one[value] for key, value in document if isinstance(value, str) and value in one}
        return document.model_copy(update={**changed, **({"when": None} if hasattr(document, "when") else {})})

    def dims(name: str, tensor: Tensor) -> Tensor:
        touched = tuple(f"{one.get(space, space)}.{role}" for space, role in tensor.touches)
        not_in, only_in = tensor.not_in, tensor.only_in
        if name in lacking:
            not_in, only_in = (*not_in, *lacking[name]), {}
        return Tensor(dims=touched, optional=tensor.optional, not_in=not_in, only_in=only_in, offset=tensor.offset)

    relations = {
        key: tuple(renamed(item) for item in items if holds(getattr(item, "when", None), flags))
        for key, items in family.relations
        if key != "ties"
    }
    layouts = {
        name: layout.model_copy(update={"tensors": _entries_for(layout, there)})
        for name, layout in family.layouts.items()
    }
    tensors = {name: dims(name, tensor) for name, tensor in there.items()}
    unused = _touched(family.tensors) - _touched(tensors)
    return family.model_copy(
        update={
            "stacks": {
                name: stack.model_copy(update={"residual": one.get(stack.residual, stack.residual)})
                for name, stack in family.stacks.items()
            },
            "output": tuple(one.get(name, name) for name in family.output),
            "spaces": {name: space for name, space in family.spaces.items() if name not in {*one, *unused}},
            "relations": family.relations.model_copy(update=relations),
            "tensors": tensors,
            "layouts": layouts,
        }
    )


def _end(name: str, one: Mapping[str, str]) -> str:
    """The space that a space is one with, through those between."""
    while name in one:
        name = one[name]
    return name


def _entries_for(layout: Layout, there: Mapping[str, Tensor]) -> dict[str, tuple[Entry, ...]]:
    kept = {
        key: tuple(entry for entry in choices if all(name in there for name in entry.is_))
        for key, choices in layout.tensors.items()
    }
    return {key: choices for key, choices in kept.items() if choices}


def at_layer(template: str, layer: int | None) -> str:
    """A tensor's name in one layer: ``at_layer("layers.{i}.attn.q.weight", 3)``."""
    return template if layer is None else template.replace(LAYER, str(layer))


def piece(name: str, expert: int) -> str:
    """The slice of a canonical tensor that is one expert's: ``layers.0.experts.up.weight[3]``."""
    return f"{name}[{expert}]"


@lru_cache(maxsize=4096)
def template_pattern(template: str) -> re.Pattern[str]:
    """An anchored pattern for a name with ``{i}`` and ``{e}``; groups ``i`` and ``e`` are the layer and the expert."""
    pattern = re.escape(template)
    for mark, group in ((LAYER, "i"), (EXPERT, "e")):
        pattern = pattern.replace(re.escape(mark), rf"(?P<{group}>0|[1-9][0-9]{{0,5}})", 1)
    return re.compile(pattern)


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
