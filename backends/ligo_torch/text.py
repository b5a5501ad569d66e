"""Text as batches of token ids: every step's batch belongs to the step's number, not to the order of calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, PlanError, Problem
from ligo_spec.fit_data import TextData
from ligo_spec.inputs import read_text_file

Ids = npt.NDArray[np.int64]


class Cut(Protocol):
    """How tokens are cut into windows, and windows into batches."""

    @property
    def seq_len(self) -> int:
        """Tokens in a window."""
        ...

    @property
    def batch_size(self) -> int:
        """Windows in a batch."""
        ...


MAX_FILE = 4 * 2**30
"""Largest text file that is read, in bytes."""

IGNORED = -100
"""The label of a position that has no loss, as torch's cross entropy has it."""


@dataclass(frozen=True)
class Tokens:
    """A text as token ids.

    Args:
        train: Ids to fit on.
        heldout: Ids for the held-out loss.
        vocab_size: Ids are below it.
        mask: Id of the mask token, where there is one.
        frame: Ids that stand before and after a window (``[CLS]``, ``[SEP]``), where the tokenizer has them.
    """

    train: Ids
    heldout: Ids
    vocab_size: int
    mask: int | None = None
    frame: tuple[int, int] | None = None


def read_tokens(
    data: TextData, train: Sequence[Path], heldout: Sequence[Path], checkpoint: Path, vocab_size: int
) -> Tokens:
    """Read and tokenize text files; without held-out files, the last tenth of the tokens is held out.

    Raises:
        InputError: A file cannot be read, the tokenizer is missing, or there is too little text.
        PlanError: The vocabulary is too small for the tokenizer.
    """
    encode, mask, frame = _tokenizer(data, checkpoint, vocab_size)
    ids = _encode_files(train, encode)
    if heldout:
        held = _encode_files(heldout, encode)
    else:
        cut = len(ids) - max(len(ids) // 10, data.seq_len)
        ids, held = ids[: max(cut, 0)], ids[max(cut, 0) :]
    for name, part in (("train", ids), ("held-out", held)):
        if len(part) < data.seq_len:
            raise InputError(f"the {name} text has {len(part)} tokens, fewer than one window of {data.seq_len}")
        if int(part.max()) >= vocab_size:
            raise PlanError(f"the tokenizer gives id {int(part.max())}, but the model's vocab_size is {vocab_size}")
    return Tokens(ids, held, vocab_size, mask, frame)


def windows(ids: Ids, seq_len: int, count: int, draws: Draws, name: str) -> Ids:
    """``(count, seq_len)`` windows of ``ids`` at places that belong to ``name``."""
    starts = draws.of(name).integers(0, len(ids) - seq_len + 1, count)
    cut: Ids = ids[starts[:, None] + np.arange(seq_len)[None, :]]
    return cut


def causal_batch(tokens: Tokens, part: Ids, data: Cut, draws: Draws, name: str) -> dict[str, Ids]:
    """Ids and labels for next-token prediction; the model shifts the labels itself."""
    ids = windows(part, data.seq_len, data.batch_size, draws, name)
    return {"input_ids": ids, "labels": ids}


def masked_batch(tokens: Tokens, part: Ids, data: Cut, draws: Draws, name: str, probability: float) -> dict[str, Ids]:
    """Ids and labels for masked prediction: 80 % masked, 10 % random, 10 % kept (Devlin et al., 1810.04805, 3.1).

    Raises:
        PlanError: The tokenizer has no mask token, the model has no embedding for it, or a window has no room.
    """
    ids = windows(part, masked_room(tokens, data), data.batch_size, draws, name)
    return masked(tokens, ids, draws, name, probability)


def masked_room(tokens: Tokens, data: Cut) -> int:
    """Tokens of a window that may be masked: all but those that frame it.

    Raises:
        PlanError: As for ``masked_batch``.
    """
    if tokens.mask is None:
        raise PlanError("fit.objective: masked_lm needs a mask token, and the tokenizer has none")
    largest = max([tokens.mask, *(tokens.frame or ())])
    if largest >= tokens.vocab_size:
        raise PlanError(f"the tokenizer gives id {largest}, but the model's vocab_size is {tokens.vocab_size}")
    room = data.seq_len - (2 if tokens.frame else 0)
    if room < 1:
        raise PlanError(f"fit.data.seq_len {data.seq_len} leaves no token between the two that frame a window")
    return room


def masked(tokens: Tokens, ids: Ids, draws: Draws, name: str, probability: float) -> dict[str, Ids]:
    """Ids and labels for masked prediction of windows ``(count, room)``, the two that frame them put around."""
    assert tokens.mask is not None, "masked_room has looked"
    random = draws.of(f"{name}.mask")
    chosen = random.random(ids.shape) < probability
    chosen[:, 0] |= ~chosen.any(axis=1)  # every window predicts something, so that its loss is defined
    fate = random.random(ids.shape)
    noisy = np.where(chosen & (fate < 0.8), tokens.mask, ids)
    noisy = np.where(chosen & (fate >= 0.9), random.integers(0, tokens.vocab_size, ids.shape), noisy)
    labels = np.where(chosen, ids, IGNORED)
    if tokens.frame:
        noisy = np.pad(noisy, ((0, 0), (1, 1)))
        noisy[:, 0], noisy[:, -1] = tokens.frame
        labels = np.pad(labels, ((0, 0), (1, 1)), constant_values=IGNORED)
    return {"input_ids": noisy, "labels": labels}


def _encode_files(paths: Sequence[Path], encode: _Encode) -> Ids:
    return np.concatenate([encode(read_text_file(path, MAX_FILE)) for path in paths])


class _Encode:
    """A tokenizer as a function of a text."""

    def __call__(self, text: str) -> Ids:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)


class _Tokenizer(_Encode):
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_str(read_text_file(path, 2**28))
        except InputError:
            raise
        except Exception as error:  # the library raises a bare Exception for every fault
            raise InputError(Problem(str(path), f"no valid tokenizer: {error}")) from error

    def __call__(self, text: str) -> Ids:
        lines = text.splitlines(keepends=True)
        encoded = self.tokenizer.encode_batch_fast(lines, add_special_tokens=False)
        return np.asarray([token for line in encoded for token in line.ids], dtype=np.int64)

    def id_of(self, *names: str) -> int | None:
        found = (self.tokenizer.token_to_id(name) for name in names)
        return next((token for token in found if token is not None), None)


def _tokenizer(data: TextData, checkpoint: Path, vocab_size: int) -> tuple[_Encode, int | None, tuple[int, int] | None]:
    if data.tokenizer == "bytes":
        if vocab_size < 256:
            raise PlanError(f"fit.data.tokenizer: bytes needs a vocabulary of 256, the model has {vocab_size}")
        return _Encode(), 256 if vocab_size > 256 else None, None
    path = checkpoint / "tokenizer.json"
    if not path.exists():
        raise InputError(
            Problem(
                str(path), "not there; put the checkpoint's tokenizer.json beside its weights, or say tokenizer: bytes"
            )
        )
    tokenizer = _Tokenizer(path)
    first, last = tokenizer.id_of("[CLS]", "<s>"), tokenizer.id_of("[SEP]", "</s>")
    frame = None if first is None or last is None else (first, last)
    return tokenizer, tokenizer.id_of("[MASK]", "<mask>"), frame
