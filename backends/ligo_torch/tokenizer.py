"""From text to token ids: by the checkpoint's own tokenizer, or byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ligo_spec.errors import InputError, Problem
from ligo_spec.inputs import read_text_file

Ids = npt.NDArray[np.int64]

TOKENIZER_FILE = "tokenizer.json"


class Encoding(Protocol):
    """A function of a text, and the ids that are no text."""

    @property
    def mask(self) -> int | None:
        """Of the mask token, where there is one."""
        ...

    @property
    def frame(self) -> tuple[int, int] | None:
        """What stands before and after a window (``[CLS]``, ``[SEP]``), where there is such."""
        ...

    def __call__(self, text: str, /) -> Ids:
        """The ids of a text, without any that are no text."""
        ...


class Bytes:
    """UTF-8 bytes are the ids; the one after them, where the vocabulary has room, is the mask."""

    frame: tuple[int, int] | None = None

    def __init__(self, vocab_size: int) -> None:
        self.mask = 256 if vocab_size > 256 else None

    def __call__(self, text: str, /) -> Ids:
        """The bytes of a text."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)


class Tokenizer:
    """A checkpoint's ``tokenizer.json``.

    Args:
        path: The file.

    Raises:
        InputError: It is none.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_str(read_text_file(path, 2**28))
        except InputError:
            raise
        except Exception as error:  # the library raises a bare Exception for every fault
            raise InputError(Problem(str(path), f"no valid tokenizer: {error}")) from error
        self.mask = self._id_of("[MASK]", "<mask>")
        first, last = self._id_of("[CLS]", "<s>"), self._id_of("[SEP]", "</s>")
        self.frame = None if first is None or last is None else (first, last)

    def __call__(self, text: str, /) -> Ids:
        """The ids of a text, tokenized line by line."""
        return np.concatenate([np.zeros(0, np.int64), *self.each(text.splitlines(keepends=True))])

    def each(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of every text."""
        encoded = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, dtype=np.int64) for one in encoded]

    def _id_of(self, *names: str) -> int | None:
        found = (self._library.token_to_id(name) for name in names)
        return next((token for token in found if token is not None), None)


def read_tokenizer(checkpoint: Path, otherwise: str) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        checkpoint: Its directory.
        otherwise: What may be said in the plan instead, for the message.

    Raises:
        InputError: It has none, or one that is not valid.
    """
    path = checkpoint / TOKENIZER_FILE
    if not path.exists():
        message = f"not there; put the checkpoint's {TOKENIZER_FILE} beside its weights, or {otherwise}"
        raise InputError(Problem(str(path), message))
    return Tokenizer(path)
