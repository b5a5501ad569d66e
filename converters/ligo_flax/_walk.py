"""The strict walker over a msgpack file: what lies where, without reading the values.

Format (https://github.com/msgpack/msgpack/blob/master/spec.md), of which flax.serialization uses this much: maps with
text for keys, and arrays as extensions (type 1; 3 for NumPy's scalars) whose payload is again msgpack: a list of shape,
dtype name and bytes. Nothing is used before it was held against the size of the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from ligo_flax._leaf import MAX_LEAVES, MAX_RANK, SEPARATOR, dtype_of, size_of, wrong_key, wrong_path
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import InputFile, refusal

_WINDOW = 4096
_MAX_TEXT = 100_000_000  # all paths together, as the header of a safetensors file
_ARRAY_TYPES = (1, 3)

# First byte of an item whose length stands after it -> bytes of that length.
_MAPS = {0xDE: 2, 0xDF: 4}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BLOBS = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_BOOLEANS = {0xC2: False, 0xC3: True}


@dataclass(frozen=True)
class Piece:
    """An array as it lies in the file: dtype as safetensors spells it, shape, and where the values begin."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


Node = dict[str, "Node"] | Piece | int
"""A tree, an array, or one of the numbers that say how an array was cut (true and false are numbers to Python)."""


def walk(file: InputFile) -> dict[str, Node]:
    """The tree of an open file.

    Raises:
        InputError: The file is cut off, malformed, or holds what a tree of arrays does not. Where the damage leaves
            the rest readable, all problems at once.
    """
    walker = _Walker(file)
    root = walker.node("")
    if not isinstance(root, dict):
        raise refusal(file.path, "does not begin with a map; not a msgpack file of Flax")
    if walker.at != file.size:
        raise refusal(file.path, f"goes on after its tree, which ends at byte {walker.at} of {file.size}")
    if walker.problems:
        raise InputError(walker.problems)
    return root


class _Walker:
    """A place in a file, and what was found wrong on the way to it."""

    def __init__(self, file: InputFile) -> None:
        self.at = 0
        self.problems: list[Problem] = []
        self._file = file
        self._window, self._window_at = b"", 0
        self._nodes = self._text = 0

    def node(self, path: str) -> Node:
        """The item that begins here, which has this path."""
        self._count(path)
        first = self._take(1)[0]
        if 0x80 <= first <= 0x8F or first in _MAPS:
            return self._map(path, first & 0x0F if first not in _MAPS else self._number(_MAPS[first]))
        if first in _EXTENSIONS or first in _FIXED_EXTENSIONS:
            return self._extension(path, _FIXED_EXTENSIONS.get(first) or self._number(_EXTENSIONS[first]))
        if first in _BOOLEANS:
            return _BOOLEANS[first]
        whole = self._unsigned(first)
        if whole is None:
            raise self._refused(path, f"the item at byte {self.at - 1} (0x{first:02x}) is neither a map nor an array")
        return whole

    def _map(self, path: str, count: int) -> dict[str, Node]:
        if 2 * count > self._file.size - self.at:
            raise self._refused(path, f"claims {count} entries, only {self._file.size - self.at} bytes are left")
        found: dict[str, Node] = {}
        for _ in range(count):
            key = self._key(path)
            if key in found:
                raise self._refused(path, f"key {printable(key, 40)!r} stands twice")
            inner = path + SEPARATOR + key if path else key
            found[key] = self.node(inner)
        return found

    def _key(self, path: str) -> str:
        first = self._take(1)[0]
        if not (0xA0 <= first <= 0xBF or first in _TEXTS):
            raise self._refused(path, f"the key at byte {self.at - 1} (0x{first:02x}) is not a text")
        length = first & 0x1F if first not in _TEXTS else self._number(_TEXTS[first])
        key = self._decoded(path, length)
        wrong = wrong_key(key)
        if wrong is not None:
            raise self._refused(path, wrong)
        return key

    def _decoded(self, path: str, length: int) -> str:
        if length > _WINDOW:
            raise self._refused(path, f"the text at byte {self.at} has {length} bytes, at most {_WINDOW} are read")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._refused(path, f"the text before byte {self.at} is not UTF-8: {error.reason}") from error

    def _extension(self, path: str, length: int) -> Piece | int:
        kind = int.from_bytes(self._take(1), signed=True)
        end = self.at + length
        if end > self._file.size:
            raise self._refused(path, f"ends at byte {end}, the file has {self._file.size}; the file is cut off")
        found: Piece | int = 0
        if kind not in _ARRAY_TYPES:
            self._note(path, f"is an extension of type {kind}; arrays have type 1, scalars 3")
        else:
            try:
                found = self._array(path, end)
            except InputError as error:
                self.problems += error.problems  # where it ends is known, so what follows can be looked at
        self.at = end
        return found

    def _array(self, path: str, end: int) -> Piece:
        if self._take(1)[0] != 0x93:
            raise self._refused(path, "the payload is not a list of shape, dtype and bytes")
        first = self._take(1)[0]
        if not (0x90 <= first <= 0x9F or first in _LISTS):
            raise self._refused(path, "the shape is not a list")
        rank = first & 0x0F if first not in _LISTS else self._number(_LISTS[first])
        if rank > MAX_RANK:
            raise self._refused(path, f"claims {rank} dimensions, at most {MAX_RANK} are read")
        sides = [self._unsigned(self._take(1)[0]) for _ in range(rank)]
        shape = tuple(side for side in sides if side is not None)
        if len(shape) != rank:
            raise self._refused(path, "the shape is not a list of sizes")
        dtype = self._dtype(path)
        wanted = size_of(dtype, shape)
        if wanted is None:
            raise self._refused(path, f"shape {printable(shape)} is too large")
        nbytes = self._blob(path)
        if nbytes != wanted or self.at + nbytes != end:
            raise self._refused(
                path, f"{dtype} of shape {printable(shape)} needs {wanted} bytes, it has {nbytes}, {end - self.at} left"
            )
        return Piece(dtype, shape, self.at, nbytes)

    def _dtype(self, path: str) -> str:
        first = self._take(1)[0]
        if not 0xA0 <= first <= 0xBF:
            raise self._refused(path, "the dtype is not a short text")
        name = self._decoded(path, first & 0x1F)
        dtype = dtype_of(name)
        if dtype is None:
            raise self._refused(path, f"dtype {printable(name, 40)} is not one that tensors have here")
        return dtype

    def _blob(self, path: str) -> int:
        first = self._take(1)[0]
        if first not in _BLOBS:
            raise self._refused(path, "the values are not bytes")
        return self._number(_BLOBS[first])

    def _unsigned(self, first: int) -> int | None:
        """The whole number that begins with this byte; None where it is something else."""
        if first <= 0x7F:
            return first
        return self._number(_UNSIGNED[first]) if first in _UNSIGNED else None

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), "big")

    def _take(self, length: int) -> bytes:
        begin = self.at - self._window_at
        if not 0 <= begin <= begin + length <= len(self._window):
            # The bound of the file is checked by the read; the window behind what is needed is only for speed.
            ahead = max(length, min(_WINDOW, self._file.size - self.at))
            self._window, self._window_at, begin = self._file.read(self.at, ahead), self.at, 0
        self.at += length
        return self._window[begin : begin + length]

    def _count(self, path: str) -> None:
        self._nodes += 1
        self._text += len(path)
        wrong = wrong_path(path)
        if wrong is None and (self._nodes > MAX_LEAVES or self._text > _MAX_TEXT):
            wrong = f"the tree has more than {MAX_LEAVES} items, or paths of more than {_MAX_TEXT} characters in all"
        if wrong is not None:
            raise self._refused(path[:64], wrong)

    def _note(self, path: str, message: str) -> None:
        where = printable(self._file.path)
        self.problems.append(Problem(f"{where}: {printable(path)}" if path else where, message))

    def _refused(self, path: str, message: str) -> InputError:
        where = printable(self._file.path)
        return InputError(Problem(f"{where}: {printable(path)}" if path else where, message))
