"""What a family states about its spaces beyond the tensors: norms, attention, activations, scales, ties (SPEC 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ligo_spec.documents import Document

NOT = "not "
"""Before a flag's name: holds when the flag is not set."""


SPACES = {"reads", "writes", "space", "query", "key", "value", "context", "scores", "weights"}
"""Keys of relations that name a space."""


def holds(when: str | None, flags: Mapping[str, bool]) -> bool:
    """Whether a condition (``flag`` or ``not flag``; None always) holds under ``flags``."""
    if when is None:
        return True
    return not flags[when.removeprefix(NOT)] if when.startswith(NOT) else flags[when]


def _short_function(value: Any) -> Any:
    return {"default": value} if isinstance(value, str) else value


class FunctionRule(Document):
    """The name of an activation function: fixed, or a key of ``config.json``."""

    config: str | None = None
    default: str
    names: dict[str, str] = {}
    """What values of the key mean, where they are no names of functions (``gated-gelu``: ``gelu_new``)."""


class NumberRule(Document):
    """A number of ``config.json``, at the first of these keys that is there (``a.b`` lies inside ``a``)."""

    config: tuple[str, ...]
    default: float


class Relation(Document):
    """The base of all that is stated of spaces."""

    @property
    def names(self) -> set[str]:
        """The spaces that it names."""
        found = (getattr(self, key) for key in SPACES & type(self).model_fields.keys())
        return {name for name in found if name is not None}


class Link(Relation):
    """Whatever carries one space over to another without mixing its entries."""

    reads: str
    writes: str
    when: str | None = None
    """A flag, or ``not`` and a flag: the link is there when it holds."""


class Norm(Link):
    """A norm: reads one space, writes another, with a gain and perhaps a bias."""

    kind: Literal["layer_norm", "rms_norm"]
    gain: str
    eps: str | None
    """Key of ``config.json`` that holds its epsilon; null where no key does."""
    per: Literal["space", "head"] = "space"
    """``head``: every entry of the spaces' outermost axis is normalised by itself, with one gain for all."""


class Attention(Relation):
    """Softmax attention with whole heads: who asks, who answers, and what comes out."""

    query: str
    key: str
    value: str
    context: str
    scores: str | None = None
    """The score of every head before the softmax, where tensors add to it or read it: axes (heads)."""
    weights: str | None = None
    """What every head's values are multiplied by, where tensors write it (talking heads): axes (heads)."""
    rotary: Literal["none", "half"] = "none"
    """``half``: rotary positions that pair coordinate ``p`` with ``p + head_dim / 2`` (Hugging Face's layout)."""
    rotary_share: NumberRule | None = None
    """The share of a head's coordinates, the first ones, that turn; all of them where it is left out."""
    rotary_types: tuple[str, ...] = ("default", "linear")
    """Types of rotary positions, as configs name them, whose frequencies do not depend on how many a head has."""
    scaled: bool = True
    """Scores are divided by the root of the head's size; false where they are divided by a number of the config."""


class Activation(Relation):
    """An elementwise function on a space; ``gated`` when several tensors write it and are multiplied."""

    space: str
    function: Annotated[FunctionRule, BeforeValidator(_short_function, json_schema_input_type=FunctionRule | str)]
    """Its name in Hugging Face configs, or the key of ``config.json`` that has it."""
    gated: bool = False
    when: str | None = None
    """A flag, or ``not`` and a flag: the function is there when it holds."""


class Routing(Relation):
    """A softmax over experts: each token goes to the few that have most of it, which add up weighted by it."""

    space: str
    """The experts: a space of one axis."""
    chosen: str
    """The size that says how many experts a token is given to."""
    normalized: bool = False
    """The weights of those chosen are divided by their sum."""
    when: str | None = None
    """A flag, or ``not`` and a flag: experts are chosen so when it holds."""


class Scale(Link):
    """An elementwise product with a learned vector, from one space to another (LayerScale)."""

    gain: str


class Multiplier(Link):
    """A product with the root of a size, from one space to another (embeddings times ``√hidden_size``)."""

    root_of: str
    """The size."""
    inverse: bool = False
    """Divided by the root instead."""


class Tie(Document):
    """Tensors that are one tensor when a flag is set; the first is the one that files store."""

    when: str | None = None
    """A flag; where it is left out they are one whatever the config says, but for a file that stores them apart."""
    same: Annotated[tuple[str, ...], Field(min_length=2)]


class Relations(Document):
    """What the certificate and the methods need to know beyond the tensors."""

    norms: tuple[Norm, ...] = ()
    attention: tuple[Attention, ...] = ()
    activations: tuple[Activation, ...] = ()
    routing: tuple[Routing, ...] = ()
    scales: tuple[Scale, ...] = ()
    multipliers: tuple[Multiplier, ...] = ()
    ties: tuple[Tie, ...] = ()

    @property
    def links(self) -> tuple[Link, ...]:
        """Everything that carries one space over to another."""
        return (*self.norms, *self.scales, *self.multipliers)
