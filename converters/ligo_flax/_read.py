"""Checkpoints of Flax files, under the names and in the orientation of PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_flax._file import read_file
from ligo_flax._names import PARAMS, View, declared_shape, is_self_describing, torch_name, view_of
from ligo_spec.architecture import Architecture
from ligo_spec.checkpoint import TensorInfo
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family, family_of
from ligo_spec.formats import FORMATS
from ligo_spec.layout import examine
from ligo_spec.sharded import ShardedCheckpoint, read_sharded

Shapes = Mapping[str, tuple[int | None, ...] | None]


class FlaxCheckpoint:
    """A lazy checkpoint of Flax files; made by `read`.

    Attributes:
        path: The directory or file that it was read from.
        config: The parsed ``config.json`` beside the weights; empty when there is none.
        tensors: Header of every tensor as PyTorch has it, by its name, sorted by name.
        files: The weight files, then the index if there is one.
    """

    def __init__(self, stored: ShardedCheckpoint, views: Mapping[str, View]) -> None:
        self.path = stored.path
        self.config: Mapping[str, Any] = stored.config
        self.files: tuple[Path, ...] = stored.files
        self._stored = stored
        self._views = {view.info.name: (path, view) for path, view in views.items()}
        self.tensors: Mapping[str, TensorInfo] = {name: self._views[name][1].info for name in sorted(self._views)}

    def read(self, name: str, /) -> npt.NDArray[Any]:
        """The values of one tensor, C-contiguous, in the dtype of the file.

        Raises:
            InputError: The file was replaced, changed since it was opened, or fails its checksum.
            KeyError: No tensor has this name.
        """
        path, view = self._views[name]
        return np.ascontiguousarray(view.of(self._stored.read(path))).reshape(view.info.shape)

    def check_unchanged(self) -> None:
        """Compare every file with what it was when the checkpoint was opened.

        Raises:
            InputError: A file is gone, was replaced, or changed its size or time.
        """
        self._stored.check_unchanged()


def read(path: str | Path, /, *, family: Family | None = None) -> FlaxCheckpoint:
    """Open a checkpoint; every header is checked, no value is read yet.

    Args:
        path: A msgpack or npz file, or a directory with ``flax_model.msgpack``, with an index and its shards, or with
            exactly one file of another name that ends in ``.msgpack`` or ``.npz``.
        family: What the model is; found in the config otherwise. Needed only where leaves do not describe themselves:
            kernels of three dimensions are heads or convolutions. Where neither is there, these keep the name that
            they have (``kernel``) and their orientation.

    Raises:
        InputError: There are no weights, a file, the index or ``config.json`` is refused, two leaves are one tensor,
            or a leaf does not fit the family. All problems at once.
    """
    stored = read_sharded(Path(path), FORMATS["flax"], read_file)
    collections = any(leaf.startswith(PARAMS) for leaf in stored.tensors)
    names = {leaf: torch_name(leaf, collections=collections) for leaf in stored.tensors}
    where = printable(stored.path)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise InputError(Problem(f"{where}: {printable(name)}", "several leaves of the tree are it") for name in twice)
    declared = _declared(stored, names, family)
    found = {leaf: view_of(names[leaf], info, declared.get(leaf)) for leaf, info in stored.tensors.items()}
    views = {leaf: view for leaf, view in found.items() if isinstance(view, View)}
    problems = [Problem(f"{where}: {printable(leaf)}", text) for leaf, text in found.items() if isinstance(text, str)]
    if problems:
        raise InputError(problems)
    return FlaxCheckpoint(stored, views)


def _declared(stored: ShardedCheckpoint, names: Mapping[str, str], family: Family | None) -> Shapes:
    """Shapes by the family's declaration, of the leaves that do not describe themselves."""
    asked = [leaf for leaf, info in stored.tensors.items() if not is_self_describing(leaf, info.shape)]
    if not asked or not stored.config:
        return {}
    directory = stored.path if stored.path.is_dir() else stored.path.parent
    where = printable(directory / "config.json")
    known = family or family_of(dict(stored.config), where)
    architecture = Architecture.from_hf_config(known, stored.config, where)
    # Every name takes part: which prefix a file uses shows in most of them only.
    infos = {name: TensorInfo(name, stored.tensors[leaf].dtype, ()) for leaf, name in names.items()}
    slots = examine(architecture, infos).binding.slots
    shapes = {template: architecture.shape(template) for slot in slots.values() for template in slot.canonical}
    return {leaf: declared_shape(slots.get(names[leaf]), shapes) for leaf in asked}
