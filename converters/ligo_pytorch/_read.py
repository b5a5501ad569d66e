"""Checkpoints of ``torch.save``: one file or shards, whatever a training loop wrapped around the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ligo_pytorch._file import StateFile
from ligo_pytorch._tensors import OtherTensor, StoredTensor
from ligo_pytorch._wrappers import bare_names, is_left_aside, state_of
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family, family_names, family_of
from ligo_spec.formats import FORMATS
from ligo_spec.inputs import has_control, refusal
from ligo_spec.sharded import ShardedCheckpoint, read_sharded


class WeightFile:
    """One file of weights; every claim about a tensor was held against the file.

    Args:
        path: The file.

    Attributes:
        path: The file.
        tensors: Header of every tensor, by the name that the file has for it.
        undone: What was undone to get at the weights.

    Raises:
        InputError: It is refused; all tensors that are wrong are named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = StateFile(path)
        try:
            state, undone = state_of(self._file.value)
        except ValueError as error:
            raise refusal(path, str(error)) from error
        aside = [str(name) for name, value in state.items() if is_left_aside(str(name), value)]
        self._stored = {name: value for name, value in state.items() if str(name) not in aside}
        self._require_sound()
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, tensor.dtype, tensor.shape) for name, tensor in self._stored.items()
        }
        self.undone = (*undone, *(f"left aside {printable(name)}" for name in aside))

    def _require_sound(self) -> None:
        faults = ((name, self._fault(name, value)) for name, value in self._stored.items())
        problems = [Problem(f"{printable(self.path)}: {printable(name)}", fault) for name, fault in faults if fault]
        if problems:
            raise InputError(problems)

    def _fault(self, name: Any, value: Any) -> str | None:
        if not isinstance(name, str):
            return "the name of a tensor is a number"
        if has_control(name):
            return "the name of a tensor holds control characters"
        if isinstance(value, OtherTensor):
            return f"is {value.kind}; only dense tensors of plain numbers are read"
        if not isinstance(value, StoredTensor):
            return f"is no tensor, but a value of type {type(value).__name__}"
        return self._file.fault(value)

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file changed since it was opened, or the record is damaged.
            KeyError: No tensor has this name.
        """
        return self._file.read(self._stored[name])

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened.

        Raises:
            InputError: It is gone, was replaced, or changed its size or time.
        """
        self._file.check_unchanged()


class PyTorchCheckpoint:
    """A lazy checkpoint under the names that the weights have without wrappers; made by `read`.

    Attributes:
        path: The directory or file that it was read from.
        config: The parsed ``config.json`` beside the weights; empty when there is none.
        tensors: Header of every tensor, sorted by name.
        files: The weight files, then the index if there is one.
        undone: Entries that were entered, prefixes that were removed, and what was left aside.
    """

    def __init__(self, stored: ShardedCheckpoint, bare: Mapping[str, str], undone: tuple[str, ...]) -> None:
        self._stored = stored
        self._names = {short: name for name, short in bare.items()}
        self.path = stored.path
        self.config = stored.config
        self.files = stored.files
        self.undone = undone
        self.tensors: Mapping[str, TensorInfo] = {
            name: replace(stored.tensors[self._names[name]], name=name) for name in sorted(self._names)
        }

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file changed since it was opened, or the record is damaged.
            KeyError: No tensor has this name.
        """
        return self._stored.read(self._names[name])

    def check_unchanged(self) -> None:
        """Compare every file with what it was when the checkpoint was opened.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        self._stored.check_unchanged()


def read(path: str | Path, /, *, family: Family | None = None) -> PyTorchCheckpoint:
    """Open a checkpoint; every object is read and held against its file, no tensor is read yet.

    Args:
        path: A file of ``torch.save``, or a directory with ``pytorch_model.bin``, with an index and its shards, or
            with exactly one file of another name that ends in ``.bin``, ``.pt``, ``.pth`` or ``.ckpt``.
        family: What the model is, to tell its own names from what wrappers added; found in ``config.json`` otherwise.

    Raises:
        InputError: There are no weights, or a file, the index or ``config.json`` is refused.
    """
    undone: dict[tuple[str, ...], None] = {}  # mostly the same in every shard

    def read_file(place: Path) -> WeightFile:
        file = WeightFile(place)
        undone[file.undone] = None
        return file

    stored = read_sharded(Path(path), FORMATS["pytorch"], read_file)
    where = printable(stored.path)
    if family is None and stored.config.get("model_type") in family_names():
        family = family_of(dict(stored.config), where)
    bare, removed = bare_names(stored.tensors, family, where)
    return PyTorchCheckpoint(stored, bare, (*chain.from_iterable(undone), *removed))
