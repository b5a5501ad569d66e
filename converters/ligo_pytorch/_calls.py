"""What an object of ``torch.save`` may name: a closed table, each name of which only builds data.

No name is ever looked up in a module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from ligo_pytorch._tensors import DTYPE_NAMES, STORAGES, UNTYPED, Name, OtherTensor, Storage, StoredTensor
from ligo_spec.checkpoint import DTYPES

_OTHER_DTYPES = (
    "complex32",
    "complex64",
    "complex128",
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float4_e2m1fn_x2",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
)
_SCHEMES = (
    "per_tensor_affine",
    "per_channel_affine",
    "per_tensor_symmetric",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)


def storage(identity: Any) -> Storage:
    """The storage that a persistent id stands for: ``("storage", type, key, location, count)``.

    Raises:
        ValueError: It is no such id.
    """
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("it refers to something that is no storage")
    _, kind, key, _, count = identity
    if not isinstance(kind, Name) or not isinstance(key, str) or type(count) is not int or count < 0:
        raise ValueError("a storage is not described as torch.save does it")
    if kind.path == UNTYPED:
        return Storage(f"data/{key}", None, count)
    dtype = STORAGES.get(kind.path.removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"a storage is of the type {kind.path}")
    return Storage(f"data/{key}", dtype, count)


def _tensor(memory: Any, offset: Any, shape: Any, strides: Any, dtype: str | None) -> StoredTensor | OtherTensor:
    sizes = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
    if not isinstance(memory, Storage) or not all(type(size) is int and 0 <= size < 1 << 63 for size in sizes):
        raise ValueError("a tensor is not described as torch.save does it")
    if len(shape) != len(strides):
        raise ValueError("a tensor has not as many strides as sides")
    dtype = dtype or memory.dtype or "U8"
    if dtype not in DTYPES:
        return OtherTensor(dtype)
    item = 1 if memory.dtype is None else DTYPES[memory.dtype].itemsize
    return StoredTensor(memory.record, memory.count * item, dtype, offset, shape, strides)


def _flagged(tensor: StoredTensor | OtherTensor, flags: Any) -> StoredTensor | OtherTensor:
    """A tensor with flags (``conj``, ``neg``) is not what its memory says."""
    return OtherTensor(f"lazy ({', '.join(map(str, flags))})") if isinstance(flags, dict) and flags else tensor


def _tensor_v1(memory: Any, offset: Any, shape: Any, strides: Any) -> Any:
    return _tensor(memory, offset, shape, strides, None)


def _tensor_v2(
    memory: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, flags: Any = None
) -> StoredTensor | OtherTensor:
    return _flagged(_tensor(memory, offset, shape, strides, None), flags)


def _tensor_v3(
    memory: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
) -> StoredTensor | OtherTensor:
    if not isinstance(dtype, Name) or not isinstance(memory, Storage) or memory.dtype is not None:
        raise ValueError("a tensor is not described as torch.save does it")
    name = dtype.path.removeprefix("torch.")
    return _flagged(_tensor(memory, offset, shape, strides, DTYPE_NAMES.get(name, name)), flags)


def _parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Any:
    if not isinstance(data, StoredTensor | OtherTensor):
        raise ValueError("a parameter holds no tensor")
    return data


def _with_attributes(make: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor that something was pinned to, or one of a subclass (whose name is not in the table, but for these)."""
    plain = ("torch.Tensor", "torch.nn.parameter.Parameter")
    if not isinstance(make, Name) or not isinstance(kind, Name) or kind.path not in plain:
        raise ValueError("a tensor is of a subclass that is not known")
    if make.path not in _REBUILT or not isinstance(arguments, tuple):
        raise ValueError("a tensor is not described as torch.save does it")
    return _REBUILT[make.path](*arguments)


def _other(kind: str) -> Callable[..., OtherTensor]:
    return lambda *_: OtherTensor(kind)


def _scalars(items: Any) -> set[Any]:
    if not isinstance(items, list) or not all(type(item) in (str, int) for item in items):
        raise ValueError("a set holds more than texts and numbers")
    return set(items)


def _counts(counted: Any = None) -> dict[Any, Any]:
    if not isinstance(counted, dict):
        raise ValueError("a counter is not made from counts")
    return counted


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are not written as latin1")
    return text.encode("latin1")


def _bytes(data: Any = b"") -> bytes:
    # Never a number: bytearray(10**12) would take a terabyte.
    if not isinstance(data, bytes):
        raise ValueError("a bytearray is not made from bytes")
    return data


def _sizes(sides: Any) -> tuple[Any, ...]:
    if not isinstance(sides, tuple):
        raise ValueError("a size is not made from a tuple")
    return sides


def _text(text: Any, index: Any = None) -> str:
    if not isinstance(text, str):
        raise ValueError("a device or layout has no name")
    return text if index is None else f"{text}:{index}"


_REBUILT: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v1,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _other("quantised"),
    "torch._utils._rebuild_sparse_tensor": _other("sparse"),
    "torch._utils._rebuild_nested_tensor": _other("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _other("meta (without values)"),
}

CALLS: Mapping[str, Callable[..., Any]] = {
    **_REBUILT,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "collections.OrderedDict": lambda: OrderedDict(),
    "collections.Counter": _counts,
    "builtins.set": _scalars,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encoded,
    "torch.Size": _sizes,
    "torch.device": _text,
    "torch.serialization._get_layout": _text,
}
"""What may be called, and what is done instead: plain functions of plain data."""

KNOWN = frozenset(
    [
        *CALLS,
        UNTYPED,
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        *(f"torch.{name}" for name in (*STORAGES, *DTYPE_NAMES, *_OTHER_DTYPES, *_SCHEMES)),
    ]
)
"""Every name that an object may use; all of them are on the list of torch's restricted loader as well."""
