"""Files of token ids: ``.npy``, or raw ``.bin`` as nanoGPT and llm.c write them; read window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from ligo_spec.errors import PlanError
from ligo_spec.fit_data import TokenData
from ligo_spec.inputs import open_input, refusal
from ligo_torch.arrays import ArrayFile, open_npy
from ligo_torch.text import Stretch, Tokens, require_windows
from ligo_torch.tokenizer import TOKENIZER_FILE, Ids, read_tokenizer

CHUNK = 2**22
"""Ids that are looked at together."""

LLMC_HEADER = 256
"""int32 numbers before the ids of a file of llm.c: what it is, its version, and how many ids follow."""

LLMC_MAGIC = (20240520, 20240801)


@dataclass(frozen=True)
class TokenFiles(Stretch):
    """Ids of files, one after the other.

    Args:
        files: Of one axis each.
    """

    files: tuple[ArrayFile, ...]

    def run(self, start: int, length: int) -> Ids:
        """``length`` ids from ``start``, counted from the first id of the first file."""
        pieces = []
        for file in self.files:
            here = min(length, max(0, len(file) - start))
            if here:
                pieces.append(file.runs(np.asarray([start]), here)[0].astype(np.int64))
                length -= here
            start = max(0, start - len(file))
        return np.concatenate(pieces)


def read_token_files(
    data: TokenData, train: Sequence[Path], heldout: Sequence[Path], checkpoint: Path, vocab_size: int
) -> Tokens:
    """Files of ids; without held-out ones, the last tenth of the ids is held out. Every id is looked at once.

    Raises:
        InputError: A file is refused, has an id that the model has not, or there are too few ids.
        PlanError: ``mask_token_id`` is none of the model's.
    """
    ids = _joined(train, data, vocab_size)
    ids, held = (ids, _joined(heldout, data, vocab_size)) if heldout else ids.divided(data.seq_len)
    require_windows(ids, held, data.seq_len)
    return Tokens(ids, held, vocab_size, *special_tokens(data.mask_token_id, checkpoint, vocab_size))


def special_tokens(mask: int | None, checkpoint: Path, vocab_size: int) -> tuple[int | None, tuple[int, int] | None]:
    """The mask of a plan, or else of the checkpoint's tokenizer, and that tokenizer's frame, where there are such.

    Raises:
        PlanError: The plan's is none of the model's.
        InputError: The tokenizer is not valid.
    """
    if mask is not None and mask >= vocab_size:
        raise PlanError(f"fit.data.mask_token_id {mask} is none of the model's, 0 to {vocab_size - 1}")
    if not (checkpoint / TOKENIZER_FILE).exists():
        return mask, None
    tokenizer = read_tokenizer(checkpoint, "say mask_token_id")
    return tokenizer.mask if mask is None else mask, tokenizer.frame


def _joined(paths: Sequence[Path], data: TokenData, vocab_size: int) -> TokenFiles:
    files = tuple(_open(path, data) for path in paths)
    for file in files:
        _require_known(file, vocab_size)
    return TokenFiles(0, sum(map(len, files)), files)


def _open(path: Path, data: TokenData) -> ArrayFile:
    if path.suffix == ".bin":
        return _open_raw(path, np.dtype(data.dtype).newbyteorder("<"))
    if path.suffix != ".npy":
        raise refusal(path, "files of tokens are .npy or .bin")
    found = open_npy(path)
    if found.dtype.kind not in "iu" or len(found.shape) > 2:
        raise refusal(path, f"tokens are integers of one or two axes, these are {found.dtype} of shape {found.shape}")
    return replace(found, shape=(prod(found.shape),))


def _open_raw(path: Path, dtype: np.dtype[np.integer]) -> ArrayFile:
    with open_input(path) as file:
        start = np.frombuffer(file.read(0, min(file.size, 4 * LLMC_HEADER)), dtype="<i4", count=min(file.size // 4, 3))
        head = 4 * LLMC_HEADER
        if len(start) == 3 and start[0] in LLMC_MAGIC and file.size == head + int(start[2]) * dtype.itemsize:
            return ArrayFile(path, (int(start[2]),), dtype, head, file.identity)
        if file.size % dtype.itemsize:
            message = (
                f"has {file.size} bytes, no whole number of {dtype.itemsize}, as {dtype.name} has; say fit.data.dtype"
            )
            raise refusal(path, message)
        return ArrayFile(path, (file.size // dtype.itemsize,), dtype, 0, file.identity)


def _require_known(file: ArrayFile, vocab_size: int) -> None:
    """Look at every id, piece by piece.

    Raises:
        InputError: One is none of the model's.
    """
    for start, ids in _pieces(file):
        wrong = (ids < 0) | (ids >= vocab_size)
        if wrong.any():
            place = int(np.argmax(wrong))
            raise refusal(
                file.path,
                f"id {ids[place]} at place {start + place} is none of the model's, 0 to {vocab_size - 1}; it may be "
                f"of another tokenizer, or not {file.dtype.name}",
            )


def _pieces(file: ArrayFile) -> Iterator[tuple[int, Ids]]:
    for start in range(0, len(file), CHUNK):
        yield start, file.runs(np.asarray([start]), min(CHUNK, len(file) - start))[0].astype(np.int64)
