"""Text as batches of token ids: every step's batch belongs to the step's number, not to the order of calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from ligo_spec.draws import Draws
from ligo_spec.errors import InputError, PlanError
from ligo_spec.fit_data import TextData
from ligo_spec.inputs import read_text_file
from ligo_torch.tokenizer import Bytes, Encoding, Ids, read_tokenizer


class Stream(Protocol):
    """Ids that are read when they are asked for."""

    def __len__(self) -> int: ...

    def runs(self, starts: Ids, length: int, /) -> Ids:
        """``length`` ids from each of ``starts``: ``(len(starts), length)``."""
        ...


@dataclass(frozen=True)
class Stretch:
    """A stretch of ids that lie in pieces, one after the other, as ``Stream``.

    Args:
        start: Where it begins, counted from the first id of the first piece.
        stop: Where it ends.
    """

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def runs(self, starts: Ids, length: int, /) -> Ids:
        """``length`` ids from each of ``starts``, over the ends of pieces: ``(len(starts), length)``."""
        return np.stack([self.run(self.start + int(start), length) for start in starts])

    def run(self, start: int, length: int) -> Ids:
        """``length`` ids from ``start``, counted from the first id of the first piece."""
        raise NotImplementedError

    def part(self, start: int, stop: int) -> Self:
        """The ids from ``start`` to ``stop``."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    def divided(self, seq_len: int) -> tuple[Self, Self]:
        """All but the last tenth, and the last tenth, which is held out."""
        cut = first_held_out(len(self), seq_len)
        return self.part(0, cut), self.part(cut, len(self))


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

    train: Ids | Stream
    heldout: Ids | Stream
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
    encode = _encoding(data, checkpoint, vocab_size)
    ids = _encode_files(train, encode)
    if heldout:
        held = _encode_files(heldout, encode)
    else:
        cut = first_held_out(len(ids), data.seq_len)
        ids, held = ids[:cut], ids[cut:]
    require_windows(ids, held, data.seq_len)
    for part in (ids, held):
        if int(part.max()) >= vocab_size:
            raise PlanError(f"the tokenizer gives id {int(part.max())}, but the model's vocab_size is {vocab_size}")
    return Tokens(ids, held, vocab_size, encode.mask, encode.frame)


def first_held_out(count: int, seq_len: int) -> int:
    """Where the held-out end of a text begins: the last tenth of its tokens, one window at least."""
    return max(0, count - max(count // 10, seq_len))


def require_windows(train: Ids | Stream, heldout: Ids | Stream, seq_len: int) -> None:
    """Refuse a text without a window on each side.

    Raises:
        InputError: It is one.
    """
    for name, part in (("train", train), ("held-out", heldout)):
        if len(part) < seq_len:
            raise InputError(f"the {name} text has {len(part)} tokens, fewer than one window of {seq_len}")


def runs(ids: Ids | Stream, starts: Ids, length: int) -> Ids:
    """``length`` ids from each of ``starts``: ``(len(starts), length)``."""
    if not isinstance(ids, np.ndarray):
        return ids.runs(starts, length)
    cut: Ids = ids[starts[:, None] + np.arange(length)[None, :]]
    return cut


def windows(ids: Ids | Stream, seq_len: int, count: int, draws: Draws, name: str) -> Ids:
    """``(count, seq_len)`` windows of ``ids`` at places that belong to ``name``."""
    return runs(ids, draws.of(name).integers(0, len(ids) - seq_len + 1, count), seq_len)


def causal_batch(tokens: Tokens, part: Ids | Stream, data: Cut, draws: Draws, name: str) -> dict[str, Ids]:
    """Ids and labels for next-token prediction; the model shifts the labels itself."""
    ids = windows(part, data.seq_len, data.batch_size, draws, name)
    return {"input_ids": ids, "labels": ids}


def masked_batch(
    tokens: Tokens, part: Ids | Stream, data: Cut, draws: Draws, name: str, probability: float
) -> dict[str, Ids]:
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


def _encode_files(paths: Sequence[Path], encode: Encoding) -> Ids:
    return np.concatenate([encode(read_text_file(path, MAX_FILE)) for path in paths])


def _encoding(data: TextData, checkpoint: Path, vocab_size: int) -> Encoding:
    if data.tokenizer == "checkpoint":
        return read_tokenizer(checkpoint, "say tokenizer: bytes")
    if vocab_size < 256:
        raise PlanError(f"fit.data.tokenizer: bytes needs a vocabulary of 256, the model has {vocab_size}")
    return Bytes(vocab_size)
