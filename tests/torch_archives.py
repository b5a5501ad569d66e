"""Files of ``torch.save`` for the tests: taken apart, put together again with something wrong, written by us."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch

import ligo_pytorch
from ligo_pytorch import write
from ligo_spec.checkpoint import DTYPES, TensorInfo
from ligo_spec.filesystem import Fs
from ligo_spec.plugins import load_plugin
from ligo_spec.staging import staged_directory

Array = npt.NDArray[Any]


class QuietFs(Fs):
    """No forcing to the disk: these tests look at bytes."""

    def sync(self, descriptor: int) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


def write_directory(target: Path, arrays: Mapping[str, Array], limit: int = 1 << 40) -> list[str]:
    """A checkpoint of these arrays; the names of its files."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    infos = [TensorInfo(name, names[array.dtype.newbyteorder("=")], array.shape) for name, array in arrays.items()]
    with staged_directory(target, fs=QuietFs()) as stage:
        return write(stage, infos, arrays.__getitem__, max_shard_size=limit)


@contextmanager
def converter_at_hand() -> Iterator[None]:
    """The converter under test, whether or not the installed package has its entry point yet."""

    def load(group: str, name: str) -> Any:
        return ligo_pytorch if (group, name) == ("ligo_spec.converters", "pytorch") else load_plugin(group, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ligo_spec.checkpoint.load_plugin", load)
        yield


def bits(value: Any) -> bytes:
    """The bytes of an array or tensor in row-major order, least significant first."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().reshape(-1).clone(memory_format=torch.contiguous_format)
        return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""
    return bytes(value.astype(value.dtype.newbyteorder("=")).tobytes())


def saved(value: Any, **more: Any) -> bytes:
    """The bytes of the file that torch makes of an object."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **more)
    return buffer.getvalue()


def parts(data: bytes) -> dict[str, bytes]:
    """The records of an archive, by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(records: Mapping[str, bytes] | list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of records, as a good zip library writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", kind) as made:
        warnings.filterwarnings("ignore", "Duplicate name")  # where a test means it
        for name, data in records.items() if isinstance(records, Mapping) else records:
            made.writestr(zipfile.ZipInfo(name), data, compress_type=kind)
    return buffer.getvalue()


def with_object(pickled: bytes, **records: bytes) -> bytes:
    """A file whose object is this pickle; records of tensors by their keys (``_0``)."""
    values = {f"archive/data/{key.removeprefix('_')}": data for key, data in records.items()}
    return archive({"archive/data.pkl": pickled, "archive/version": b"3\n", **values})
