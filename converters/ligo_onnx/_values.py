"""The values of tensors, from the model's file and those beside it; one tensor at a time, each file opened anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_onnx._external import External, open_external, overlaps, require_checksum
from ligo_onnx._stored import Stored, read_span, read_varints
from ligo_spec.checkpoint import DTYPES
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import Identity, InputFile, open_input, require_unchanged


class Values:
    """Reads the tensors of one model.

    Args:
        file: The model.
        identity: What its file was when it was walked.
        tensors: All of its tensors, by name.

    Raises:
        InputError: A data file may not be read, is too short, has another checksum, or tensors overlap in it. All
            problems at once.
    """

    def __init__(self, file: Path, identity: Identity, tensors: Mapping[str, Stored]) -> None:
        self._file = file
        self._identity = identity
        self._tensors = tensors
        self._outside: dict[str, Identity] = {}
        problems: list[Problem] = []
        by_file: dict[str, list[Stored]] = {}
        for tensor in tensors.values():
            if tensor.external is not None:
                by_file.setdefault(tensor.external.location, []).append(tensor)
        for location, held in by_file.items():
            try:
                self._check(location, held)
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)

    def __call__(self, tensor: Stored) -> npt.NDArray[Any]:
        """The values of a tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file was replaced, or changed its size or time, since it was opened.
        """
        if tensor.external is not None:
            with self._open(tensor.external.location) as file:
                return read_span(file, tensor, tensor.external.offset)
        if tensor.span is None:
            return np.zeros(tensor.info.shape, DTYPES[tensor.info.dtype])
        # Opened anew each time: a model may have more data files than a process may have open files.
        with open_input(self._file) as file:
            if file.identity != self._identity:
                require_unchanged(self._file, self._identity)
            return read_varints(file, tensor) if tensor.varints else read_span(file, tensor, tensor.span.begin)

    def files(self, names: Collection[str]) -> tuple[Path, ...]:
        """The files that hold tensors, the model first."""
        held = (self._tensors[name].external for name in names if name in self._tensors)
        locations = sorted({external.location for external in held if external is not None})
        return (self._file, *(self._file.parent / location for location in locations))

    def check_unchanged(self) -> None:
        """Compare every file with what it was.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        require_unchanged(self._file, self._identity)
        for location, identity in self._outside.items():
            require_unchanged(self._file.parent / location, identity)

    def _open(self, location: str) -> InputFile:
        file = open_external(self._file.parent, location)
        if file.identity != self._outside.setdefault(location, file.identity):
            file.close()
            require_unchanged(self._file.parent / location, self._outside[location])
        return file

    def _check(self, location: str, held: list[Stored]) -> None:
        with self._open(location) as file:
            wrong = [problem for tensor in held if (problem := _misfit(tensor, file))]
            spans = {_span(tensor): tensor.name for tensor in held}
            wrong += [
                Problem(printable(file.path), f"{printable(first, 60)} and {printable(other, 60)} overlap")
                for first, other in overlaps(spans)
            ]
            if wrong:
                raise InputError(wrong)
            for checksum in sorted({t.external.checksum for t in held if t.external and t.external.checksum}):
                require_checksum(file, checksum)


def _span(tensor: Stored) -> tuple[str, int, int]:
    external = tensor.external
    assert external is not None
    return external.location, external.offset, external.offset + tensor.info.nbytes


def _misfit(tensor: Stored, file: InputFile) -> Problem | None:
    """What is wrong with where a tensor says that its values lie."""
    external: External | None = tensor.external
    assert external is not None
    needed = tensor.info.nbytes
    length = file.size - external.offset if external.length is None else external.length
    where = f"{printable(file.path)}: {printable(tensor.name)}"
    if length != needed:
        claim = "what is left of the file" if external.length is None else "length"
        text = (
            f"{tensor.info.dtype} of shape {printable(tensor.info.shape)} needs {needed} bytes, {claim} gives {length}"
        )
        return Problem(where, text)
    if external.offset + needed > file.size:
        text = f"its values end at byte {external.offset + needed}, the file has {file.size}; it is cut off"
        return Problem(where, text)
    return None
