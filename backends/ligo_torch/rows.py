"""Hugging Face datasets on the disk, as ``save_to_disk`` writes them: columns of ids or of text, read row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.types as pt
from datasets import DatasetDict, load_from_disk

from ligo_spec.complaints import did_you_mean
from ligo_spec.errors import PlanError, printable
from ligo_spec.fit_data import DatasetData
from ligo_spec.inputs import refusal
from ligo_torch.text import Stream, Stretch, Tokens, require_windows
from ligo_torch.token_files import special_tokens
from ligo_torch.tokenizer import Ids, Tokenizer, read_tokenizer

CHUNK = 10_000
"""Rows that are looked at together."""

MAX_HELDOUT = 2**22
"""Tokens of held-out text that are kept; of more text, those of the first rows."""

HELD_OUT = 10
"""One row of so many is held out, at the end, where no split is."""


@dataclass(frozen=True)
class Column:
    """A column of a dataset.

    Args:
        path: The dataset, for messages.
        name: The column's.
        rows: Rows as Arrow's tables, which lie on the disk.
        sizes: Of every row: how many ids, or bytes of text. A row without a value has none.
    """

    path: Path
    name: str
    rows: Any
    sizes: npt.NDArray[np.int64]

    def values(self, start: int, stop: int) -> Any:
        """Arrow's array of the rows from ``start`` to ``stop``.

        Raises:
            InputError: They cannot be read.
        """
        try:
            return self.rows[start:stop].column(self.name).combine_chunks()
        except Exception as error:  # Arrow and the library raise all sorts of a damaged file
            raise refusal(self.path, f"rows from {start} on cannot be read: {printable(error)}") from error

    def ids(self, start: int, stop: int) -> Ids:
        """The ids of the rows from ``start`` to ``stop``, one after the other.

        Raises:
            InputError: They cannot be read, or one is missing.
        """
        flat = self.values(start, stop).flatten()
        if flat.null_count:
            raise refusal(self.path, f"column {self.name}: an id in the rows {start} to {stop - 1} has no value")
        found: Ids = flat.to_numpy(zero_copy_only=False).astype(np.int64)
        return found


@dataclass(frozen=True)
class IdRows(Stretch):
    """Rows of ids, one after the other.

    Args:
        column: The rows.
        ends: Where each ends, counted from the first id.
    """

    column: Column
    ends: npt.NDArray[np.int64]

    def run(self, start: int, length: int) -> Ids:
        """``length`` ids from ``start``, counted from the first id of the first row."""
        first, last = np.searchsorted(self.ends, [start, start + length - 1], side="right").tolist()
        ids = self.column.ids(first, last + 1)
        skipped = start - (int(self.ends[first - 1]) if first else 0)
        return ids[skipped : skipped + length]


@dataclass(frozen=True)
class TextRows:
    """Rows of text, tokenized when they are read, as ``ligo_torch.text.Stream``: its places are bytes of text.

    A place stands for the token as far into its row as it is; a window goes on into the rows that follow, and from the
    last one into the first.

    Args:
        column: The rows.
        ends: Where each row of the part ends, in bytes from the first of them.
        first: The first row of the part.
        encode: The ids of texts.
    """

    column: Column
    ends: npt.NDArray[np.int64]
    first: int
    encode: Callable[[list[str]], list[Ids]]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def runs(self, starts: Ids, length: int, /) -> Ids:
        """``length`` ids from each of ``starts``: ``(len(starts), length)``.

        Raises:
            InputError: All rows together have fewer.
        """
        return np.stack([self._run(int(start), length) for start in starts])

    def ids(self, most: int) -> Ids:
        """The ids of the rows from the first on, ``most`` of them where there are more."""
        found, count = [np.zeros(0, np.int64)], 0
        for piece in _pieces(len(self.ends)):
            encoded = self._encoded(*piece)
            found += encoded
            count += sum(map(len, encoded))
            if count >= most:
                break
        return np.concatenate(found)[:most]

    def _run(self, start: int, length: int) -> Ids:
        row = int(np.searchsorted(self.ends, start, side="right"))
        begin = int(self.ends[row - 1]) if row else 0
        (ids,) = self._encoded(row, row + 1)
        found = [ids[(start - begin) * len(ids) // int(self.ends[row] - begin) :]]
        count = len(found[0])
        for following in (*range(row + 1, len(self.ends)), *range(row + 1)):
            if count >= length:
                return np.concatenate(found)[:length]
            found += self._encoded(following, following + 1)
            count += len(found[-1])
        raise refusal(
            self.column.path, f"column {self.column.name} has {count} tokens, fewer than a window of {length}"
        )

    def _encoded(self, start: int, stop: int) -> list[Ids]:
        texts = self.column.values(self.first + start, self.first + stop).to_pylist()
        return self.encode([text or "" for text in texts])


def read_dataset(data: DatasetData, path: Path, checkpoint: Path, vocab_size: int) -> Tokens:
    """The tokens of a dataset; without a held-out split, the last tenth is held out.

    Ids are all looked at once. Text is tokenized as far as it is used, the held-out part at once.

    Raises:
        InputError: The dataset is refused, has not what the plan names, or has too little of it.
        PlanError: The vocabulary is too small for the tokenizer, or for ``mask_token_id``.
    """
    mask, frame = special_tokens(data.mask_token_id, checkpoint, vocab_size)
    train = _column(data, path, data.split)
    heldout = None if data.heldout_split is None else _column(data, path, data.heldout_split)
    ids: Ids | Stream
    held: Ids | Stream
    if data.ids_column is not None:
        ids, held = _ids(data, train, heldout, vocab_size)
    else:
        ids, held = _text(data, train, heldout, checkpoint, vocab_size)
    return Tokens(ids, held, vocab_size, mask, frame)


def _ids(data: DatasetData, train: Column, heldout: Column | None, vocab_size: int) -> tuple[IdRows, IdRows]:
    ids = _known(train, vocab_size)
    ids, held = ids.divided(data.seq_len) if heldout is None else (ids, _known(heldout, vocab_size))
    require_windows(ids, held, data.seq_len)
    return ids, held


def _text(
    data: DatasetData, train: Column, heldout: Column | None, checkpoint: Path, vocab_size: int
) -> tuple[TextRows, Ids]:
    encode = _within(read_tokenizer(checkpoint, "name an ids_column"), vocab_size)
    count = len(train.sizes)
    cut = count if heldout is not None else count - max(1, count // HELD_OUT)
    rows = TextRows(train, np.cumsum(train.sizes[:cut]), 0, encode)
    others = heldout or train
    first = 0 if heldout is not None else cut
    held = TextRows(others, np.cumsum(others.sizes[first:]), first, encode).ids(MAX_HELDOUT)
    require_windows(rows.ids(data.seq_len), held, data.seq_len)
    if len(rows) < data.seq_len:  # of a tokenizer that makes more tokens than there are bytes
        message = f"column {train.name} has {len(rows)} bytes to fit on, fewer than a window has tokens, {data.seq_len}"
        raise refusal(train.path, message)
    return rows, held


def _within(tokenizer: Tokenizer, vocab_size: int) -> Callable[[list[str]], list[Ids]]:
    """The tokenizer, which refuses to give an id that the model has not."""

    def encode(texts: list[str]) -> list[Ids]:
        found = tokenizer.each(texts)
        largest = max((int(ids.max()) for ids in found if len(ids)), default=0)
        if largest >= vocab_size:
            raise PlanError(f"the tokenizer gives id {largest}, but the model's vocab_size is {vocab_size}")
        return found

    return encode


def _column(data: DatasetData, path: Path, split: str | None) -> Column:
    """A column of a split, with the size of every row."""
    name = data.ids_column or data.text_column or ""
    dataset = _split(path, split)
    if name not in dataset.column_names:
        known = list(dataset.column_names)
        raise refusal(path, f"has no column {name!r}{did_you_mean(name, known)}; it has {printable(', '.join(known))}")
    rows = dataset.select_columns([name]).with_format("arrow")
    bare = Column(path, name, rows, np.zeros(0, np.int64))
    _require_kind(bare, ids=data.ids_column is not None)
    measure = pc.list_value_length if data.ids_column is not None else pc.binary_length
    sizes = [measure(bare.values(*piece)).fill_null(0).to_numpy(zero_copy_only=False) for piece in _pieces(len(rows))]
    return replace(bare, sizes=np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.int64))


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)


def _require_kind(column: Column, *, ids: bool) -> None:
    """Refuse a column of other values."""
    kind = column.rows.features.arrow_schema.field(column.name).type
    lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
    if ids and not (lists and pt.is_integer(kind.value_type)):
        raise refusal(column.path, f"column {column.name} is of type {printable(kind)}, not of lists of integers")
    if not ids and not (pt.is_string(kind) or pt.is_large_string(kind)):
        raise refusal(column.path, f"column {column.name} is of type {printable(kind)}, not of texts")


def _split(path: Path, split: str | None) -> Any:
    """The dataset itself, or one of its splits.

    Raises:
        InputError: It is no dataset, or has no such split.
    """
    try:
        found = load_from_disk(str(path.resolve()))
    except Exception as error:  # the library raises all sorts of what is none
        raise refusal(path, f"is no dataset as save_to_disk writes it: {printable(error)}") from error
    if not isinstance(found, DatasetDict):
        if split is not None:
            raise refusal(path, f"is one dataset without splits, so there is no split {split!r}; leave it out")
        return found
    known = list(found)
    if split is None and len(known) == 1:
        return found[known[0]]
    if split is None:
        raise refusal(path, f"has the splits {printable(', '.join(known))}; say which in fit.data.split")
    if split not in found:
        raise refusal(path, f"has no split {split!r}{did_you_mean(split, known)}; it has {printable(', '.join(known))}")
    return found[split]


def _known(column: Column, vocab_size: int) -> IdRows:
    """The rows, every id of which was looked at."""
    for start, stop in _pieces(len(column.sizes)):
        ids = column.ids(start, stop)
        wrong = (ids < 0) | (ids >= vocab_size)
        if wrong.any():
            place = int(np.argmax(wrong))
            row = start + int(np.searchsorted(np.cumsum(column.sizes[start : start + CHUNK]), place, side="right"))
            message = f"id {ids[place]} in row {row} is none of the model's, 0 to {vocab_size - 1}"
            raise refusal(column.path, f"column {column.name}: {message}; it may be of another tokenizer")
    ends = np.cumsum(column.sizes)
    return IdRows(0, int(ends[-1]) if len(ends) else 0, column, ends)
