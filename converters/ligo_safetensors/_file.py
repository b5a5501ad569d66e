"""One safetensors file: header at once, values one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ligo_safetensors._header import Entry, Header, read_header
from ligo_spec.bits import from_bytes
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.errors import printable
from ligo_spec.inputs import Identity, open_input, refusal, require_unchanged


class TensorFile:
    """A file whose header was checked; made by `read_file`.

    Attributes:
        path: The file.
        metadata: The free text of its header.
        tensors: Header of every tensor, by name, in the order of the header.
    """

    def __init__(self, path: Path, identity: Identity, header: Header) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = header.metadata
        self.tensors: Mapping[str, TensorInfo] = {name: entry.info for name, entry in header.entries.items()}
        self._identity = identity
        self._entries: Mapping[str, Entry] = header.entries

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file was replaced, or changed its size or time, since it was opened.
            KeyError: No tensor has this name.
        """
        entry = self._entries[name]
        # Opened anew each time: a checkpoint may have more shards than a process may have open files.
        with open_input(self.path) as file:
            if file.identity != self._identity:
                require_unchanged(self.path, self._identity)
            data = np.empty(entry.info.nbytes, dtype=np.uint8)
            file.read_into(entry.offset, data.data)
        return from_bytes(data, DTYPES[entry.info.dtype], entry.info.shape)

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened.

        Raises:
            InputError: It is gone, was replaced, or changed its size or time.
        """
        require_unchanged(self.path, self._identity)


def read_file(path: str | Path) -> TensorFile:
    """Open one safetensors file and check its header; no value is read yet.

    Raises:
        InputError: Our parser or the safetensors library refuses the file.
    """
    path = Path(path)
    with open_input(path) as file:
        header = read_header(file)
        identity = file.identity
    opened = TensorFile(path, identity, header)
    _require_agreement(opened)
    return opened


def _require_agreement(opened: TensorFile) -> None:
    """Two readers that see different tensors in one file mean that one of them is being fooled."""
    try:
        with safe_open(opened.path, framework="numpy") as library:
            names = list(library.keys())
            slices = {name: library.get_slice(name) for name in names}
            seen = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise refusal(opened.path, f"the safetensors library refuses it: {printable(error)}") from error
    if seen != {name: (info.dtype, info.shape) for name, info in opened.tensors.items()}:
        raise refusal(opened.path, "the safetensors library sees other tensors in it than we do")
