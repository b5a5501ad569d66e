"""What an operator can be fitted on, as a plan says it: one document a kind; text where no kind is said."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ligo_spec.documents import Document
from ligo_spec.plan_paths import Paths, PlanPath, SomePaths

_SeqLen = Annotated[int, Field(ge=2, le=1_000_000)]
_BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
_Channels = Annotated[tuple[float, ...], Field(min_length=1)]
_Spreads = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class TextData(Document):
    """Text files, cut into windows of tokens."""

    kind: Literal["text"] = "text"
    path: SomePaths
    """Files or patterns, relative to the plan; used in the order of their names."""
    heldout: Paths = ()
    """Files for the held-out loss; where there are none, the last tenth of the tokens."""
    tokenizer: Literal["checkpoint", "bytes"] = "checkpoint"
    """``checkpoint``: its own ``tokenizer.json``; ``bytes``: UTF-8 bytes are the token ids."""
    seq_len: _SeqLen = 128
    """Tokens in a window."""
    batch_size: _BatchSize = 32
    """Windows in a step."""

    @property
    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Paths of the files to fit on, and of those that are held out."""
        return self.path, self.heldout


class TokenData(Document):
    """Token ids, cut into windows; files are read window by window."""

    kind: Literal["tokens"]
    path: SomePaths
    """Files or patterns: ``.npy`` of integers with one or two axes, whose rows follow one another, or ``.bin``, raw
    numbers (after the header of llm.c, where there is one)."""
    heldout: Paths = ()
    """Files for the held-out loss; where there are none, the last tenth of the ids."""
    dtype: Literal["uint16", "uint32", "int32", "int64"] = "uint16"
    """Of the numbers in a ``.bin``, little-endian."""
    mask_token_id: Annotated[int, Field(ge=0)] | None = None
    """For masked_lm; where it is left out, that of the checkpoint's ``tokenizer.json``."""
    seq_len: _SeqLen = 128
    """Tokens in a window."""
    batch_size: _BatchSize = 32
    """Windows in a step."""

    @property
    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Paths of the files to fit on, and of those that are held out."""
        return self.path, self.heldout


class DatasetData(Document):
    """A Hugging Face dataset on the disk, its rows one after the other, cut into windows of tokens."""

    kind: Literal["dataset"]
    path: PlanPath
    """A directory that ``save_to_disk`` has written."""
    split: str | None = None
    """Of a dataset with several splits, the one to fit on."""
    heldout_split: str | None = None
    """The one for the held-out loss; where it is left out, the last tenth of ``split``."""
    text_column: str | None = None
    """Texts, tokenized by the checkpoint's tokenizer as they are needed."""
    ids_column: str | None = None
    """Or lists of token ids."""
    mask_token_id: Annotated[int, Field(ge=0)] | None = None
    """For masked_lm; where it is left out, that of the checkpoint's ``tokenizer.json``."""
    seq_len: _SeqLen = 128
    """Tokens in a window."""
    batch_size: _BatchSize = 32
    """Windows in a step."""

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if (self.text_column is None) == (self.ids_column is None):
            raise ValueError("name one column: text_column or ids_column")
        return self

    @property
    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The directory; what is held out is in it too."""
        return (self.path,), ()


class ImageData(Document):
    """Labelled images, as arrays that NumPy has saved."""

    kind: Literal["images"]
    path: PlanPath
    """``.npz`` with the arrays ``images`` and ``labels``; or the images as ``.npy``, which is read as they are needed.

    uint8 or floats, ``(n, height, width)``, ``(n, height, width, channels)`` or ``(n, channels, height, width)``."""
    labels: PlanPath | None = None
    """``.npy`` of integers, ``(n,)``, beside images in an ``.npy``."""
    heldout: PlanPath | None = None
    """Images for the held-out loss, as in ``path``; where there are none, a tenth of the images, drawn at random."""
    heldout_labels: PlanPath | None = None
    """Their labels, as in ``labels``."""
    mean: _Channels | None = None
    """Is taken off, one for all channels or one a channel; those of ``preprocessor_config.json``, or else 0.5."""
    std: _Spreads | None = None
    """What the rest is divided by; likewise."""
    batch_size: _BatchSize = 32
    """Images in a step."""

    @model_validator(mode="after")
    def _labels_where_they_belong(self) -> Self:
        if self.heldout is None and self.heldout_labels is not None:
            raise ValueError("heldout_labels are labels of heldout, which is left out")
        for images, key in ((self.path, "labels"), (self.heldout, "heldout_labels")):
            labels = getattr(self, key)
            if images is None:
                continue
            if not images.endswith((".npy", ".npz")):
                raise ValueError(f"images are .npy or .npz, not {images!r}")
            if images.endswith(".npz") and labels is not None:
                raise ValueError(f"{images!r} holds its labels itself; leave {key} out, or give the images as .npy")
            if images.endswith(".npy") and (labels is None or not labels.endswith(".npy")):
                raise ValueError(f"{images!r} has no labels; name those in {key}, an .npy too")
        return self

    @property
    def files(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Paths of the files to fit on, and of those that are held out: images, and labels where they are apart."""
        train, heldout = (self.path, self.labels), (self.heldout, self.heldout_labels)
        return tuple(path for path in train if path), tuple(path for path in heldout if path)


WindowData = TextData | TokenData | DatasetData
"""Kinds that are cut into windows of ``seq_len`` tokens."""


def _said_or_text(value: Any) -> Any:
    return {"kind": "text", **value} if isinstance(value, dict) else value


Data = Annotated[
    TextData | TokenData | DatasetData | ImageData,
    Field(discriminator="kind", json_schema_extra={"assumed": "text"}),
    BeforeValidator(_said_or_text),
]
"""All kinds, told apart by ``kind``."""
