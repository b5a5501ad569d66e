"""One Flax file: headers at once, values one array at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ligo_flax._leaf import Leaf
from ligo_flax._npz import read_archive
from ligo_flax._tree import read_tree
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.inputs import Identity, open_input, require_unchanged


class FlaxFile:
    """A file whose headers were checked; made by `read_file`.

    Attributes:
        path: The file.
        tensors: Header of every array as it lies there, by its path.
    """

    def __init__(self, path: Path, identity: Identity, leaves: Mapping[str, Leaf]) -> None:
        self.path = path
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(name, leaf.dtype, leaf.shape) for name, leaf in leaves.items()
        }
        self._identity = identity
        self._leaves = leaves

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one array, as they lie in the file.

        Raises:
            InputError: The file was replaced, changed since it was opened, or fails its checksum.
            KeyError: No array has this path.
        """
        leaf = self._leaves[name]
        # Opened anew each time: a checkpoint may have more shards than a process may have open files.
        with open_input(self.path) as file:
            if file.identity != self._identity:
                require_unchanged(self.path, self._identity)
            return leaf.read(file)

    def check_unchanged(self) -> None:
        """Compare the file with what it was when it was opened.

        Raises:
            InputError: It is gone, was replaced, or changed its size or time.
        """
        require_unchanged(self.path, self._identity)


def read_file(path: Path) -> FlaxFile:
    """Open a msgpack or npz file, told apart by their endings, and check what its headers say.

    Raises:
        InputError: The file is refused.
    """
    with open_input(path) as file:
        leaves = read_archive(file) if path.name.endswith(".npz") else read_tree(file)
        return FlaxFile(path, file.identity, leaves)
