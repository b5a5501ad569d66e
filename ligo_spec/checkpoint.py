"""What a converter gives and takes: named tensors of a file, read one at a time, written one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ligo_spec.formats import format_of
from ligo_spec.hub import located
from ligo_spec.plugins import load_plugin
from ligo_spec.staging import Stage, StagedFile

if TYPE_CHECKING:
    from ligo_spec.family import Family
    from ligo_spec.layout import Model

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""dtype names as safetensors spells them, and the NumPy dtype that holds the same bits."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""The dtypes that a map can be applied to."""


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The safetensors name of a NumPy dtype, e.g. ``F32``."""
    return next(name for name, known in DTYPES.items() if known == dtype)


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor: its name in the file, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        count = 1
        for side in self.shape:
            count *= side
        return count * DTYPES[self.dtype].itemsize


class Checkpoint(Protocol):
    """A lazy checkpoint: headers at once, values one tensor at a time."""

    @property
    def path(self) -> Path:
        """The directory or file that it was read from."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The parsed ``config.json``; empty when there is none."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Header of every tensor, by its name in the file."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights, and their index (to hash, and not to carry over)."""
        ...

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file is shorter than its header says, or changed since it was opened.
        """
        ...

    def check_unchanged(self) -> None:
        """Compare every file with what it was when the checkpoint was opened; called when all is read.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        ...


class Converter(Protocol):
    """A format: two functions of the same names in every converter module.

    Both sides of them speak of a model as Transformers does in PyTorch: the names, shapes and orientation of the
    family's ``hf`` layout. What else a format does to a tensor is its converter's own matter.
    """

    def read(self, path: Path, /, *, family: Family | None = None) -> Checkpoint:
        """Open a checkpoint; every header is checked, no tensor is read yet.

        Args:
            path: A directory or a file.
            family: What the caller says that the model is; where it is left out, a format whose files do not name
                their tensors finds it in the config.

        Raises:
            InputError: Nothing of the format is there, or it is refused.
        """
        ...

    def write(
        self,
        stage: Stage,
        tensors: Iterable[TensorInfo],
        value: Callable[[str], npt.NDArray[Any]],
        /,
        *,
        max_shard_size: int,
        model: Model | None,
    ) -> list[str]:
        """Write weights through ``stage``; the names of the files written.

        Args:
            stage: The output in the making; every byte goes through it.
            tensors: What the files will hold, in any order.
            value: Gives the values of one tensor, by its name. It is called once for each, in the order of the
                format, which is why the caller does not push them.
            max_shard_size: Bytes of tensors a file; a larger tensor gets a file of its own.
            model: What the tensors are; None where that is not known, which only formats of named tensors take.

        Raises:
            InputError: The format has no place for such a model, or for one of its tensors.
            OutputError: The files do not fit, or cannot be written.
        """
        ...


class TensorFile(Protocol):
    """One file of named tensors with free text in its header."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free text."""
        ...

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor.

        Raises:
            InputError: The file changed since it was opened.
            KeyError: No tensor has this name.
        """
        ...


class TensorFiles(Protocol):
    """A converter that also handles single files with metadata of their own; operator files need one."""

    def read_file(self, path: Path, /) -> TensorFile:
        """Open a file; its header is checked, no value is read yet."""
        ...

    def write_file(
        self,
        stage: Stage,
        name: str,
        tensors: Iterable[TensorInfo],
        value: Callable[[str], npt.NDArray[Any]],
        /,
        *,
        metadata: Mapping[str, str],
    ) -> StagedFile:
        """Write a file through ``stage``; its size and checksum."""
        ...


def load_converter(name: str) -> Converter:
    """The converter that is installed under ``name``.

    Raises:
        PlanError: No such converter is installed, or what it needs is not.
    """
    converter: Converter = load_plugin("ligo_spec.converters", name)
    return converter


def load_tensor_files() -> TensorFiles:
    """The converter that operator files are read and written with (safetensors).

    Raises:
        PlanError: It is not installed.
    """
    files: TensorFiles = load_plugin("ligo_spec.converters", "safetensors")
    return files


def read_checkpoint(path: str | Path, *, family: Family | None = None) -> Checkpoint:
    """Open the checkpoint at ``path``: a directory or a file of any format that is installed.

    Args:
        path: Where it lies, or ``hf://owner/name@revision``. In a directory of several formats, the one that holds the
            least danger is taken.
        family: What the model is, for formats whose files do not name their tensors; found in the config otherwise.

    Raises:
        InputError: Nothing is there, or it is refused.
        PlanError: The converter of its format is not installed, or what that needs is not.
    """
    path = located(path)
    return load_converter(format_of(path).name).read(path, family=family)
