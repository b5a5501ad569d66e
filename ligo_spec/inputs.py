"""The one door for files of others: every input is opened, sized and parsed here.

Nothing in a file is believed before it was compared with the file's real size, and no text of a file becomes a path
unless it is a plain file name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ligo_spec.errors import InputError, Problem, printable

CHUNK = 1 << 24
"""Bytes that are read at once when a file is streamed."""

MAX_PATH = 400
"""Characters of a path that a message shows: those of the Hub's cache are long, and the file's name is at the end."""

# Strings are skipped whole, so that brackets in them do not count. The closing quote is optional: an unterminated
# string must swallow the rest, or the scan would start again at each of its quotes and take quadratic time.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Identity(NamedTuple):
    """What tells a file from another one, or from itself after a change."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The identity that a ``stat`` shows."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class InputFile:
    """A regular file, open for reading; made by `open_input`.

    Attributes:
        path: As the user or the index names it.
        identity: Device, inode, size and time of the last change when it was opened.
    """

    def __init__(self, path: Path, descriptor: int, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        """Size in bytes when the file was opened."""
        return self.identity.size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``.

        Raises:
            InputError: The file ends earlier, or cannot be read.
        """
        # The bound comes before the allocation: a claimed length must not make us ask for memory.
        self._require(offset + length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes at ``offset``.

        Raises:
            InputError: The file ends earlier, or cannot be read.
        """
        self._require(offset + buffer.nbytes)
        done = 0
        while done < buffer.nbytes:
            try:
                count = os.preadv(self._descriptor, [buffer[done : done + CHUNK]], offset + done)
            except OSError as error:
                raise refusal(self.path, f"cannot be read: {error.strerror}") from error
            if not count:
                raise refusal(self.path, f"ends at byte {offset + done}, the file changed while it was read")
            done += count

    def chunks(self) -> Iterator[bytes]:
        """The whole file, piece by piece.

        Raises:
            InputError: The file ends early, or cannot be read.
        """
        for offset in range(0, self.size, CHUNK):
            yield self.read(offset, min(CHUNK, self.size - offset))

    def _require(self, end: int) -> None:
        if end > self.size:
            raise refusal(self.path, f"has {self.size} bytes, {end} are needed; the file is cut off")

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refusal(path: Path, message: str) -> InputError:
    """The refusal of a file: its name, escaped, and what is wrong with it."""
    return InputError(Problem(printable(path, MAX_PATH), message))


def open_input(path: str | Path) -> InputFile:
    """Open a regular file for reading.

    Symbolic links are followed: the user named the file, or the directory that it lies in (the Hugging Face cache is
    made of links).

    Raises:
        InputError: There is no such file, it may not be read, or it is a directory, pipe, device or socket.
    """
    path = Path(path)
    # A pipe would block in open() for ever, a terminal could become ours: both flags are against that.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:  # ValueError: a null byte or a lone surrogate in the name
        raise refusal(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal(path, f"is {_kind(status.st_mode)}, not a regular file")
    return InputFile(path, descriptor, Identity.of(status))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def require_unchanged(path: Path, identity: Identity) -> None:
    """Compare a file with what it was when it was opened.

    Raises:
        InputError: It is gone, was replaced, or changed its size or time.
    """
    try:
        now = Identity.of(os.stat(path))
    except OSError as error:
        raise refusal(path, f"was there at the start and is gone now: {error.strerror}") from error
    if now != identity:
        raise refusal(path, f"changed during the run ({identity.size} bytes then, {now.size} now); run again")


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits.

    Raises:
        InputError: The file was refused or changed meanwhile.
    """
    digest = hashlib.sha256()
    with open_input(path) as file:
        for chunk in file.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def read_text_file(path: str | Path, limit: int) -> str:
    """The text of a UTF-8 file of at most ``limit`` bytes.

    Raises:
        InputError: The file was refused, is larger than ``limit``, or is not UTF-8.
    """
    with open_input(path) as file:
        if file.size > limit:
            raise refusal(file.path, f"has {file.size} bytes, at most {limit} are read")
        data = file.read(0, file.size)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(file.path, f"is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_json(path: str | Path, limit: int, *, max_depth: int = 64) -> Any:
    """The value of a JSON file of at most ``limit`` bytes.

    Raises:
        InputError: The file was refused, or `parse_json` refuses its text.
    """
    return parse_json(read_text_file(path, limit), printable(path), max_depth=max_depth)


def parse_json(text: str, where: str, *, max_depth: int = 64) -> Any:
    """The value of a JSON text, strictly: no duplicate key, no NaN or infinity, bounded nesting.

    Args:
        text: What to parse.
        where: The file, for messages.
        max_depth: Lists and objects may be nested this deep.

    Raises:
        InputError: The text is not JSON, or breaks one of the rules above.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise InputError(Problem(where, f"key {printable(twice)!r} stands twice in one object"))
        return found

    def finite(token: str) -> float:
        value = float(token)
        if not math.isfinite(value):
            raise InputError(Problem(where, f"the number {printable(token, 40)} is not finite"))
        return value

    _require_shallow(text, where, max_depth)
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError too for integers of thousands of digits
        raise InputError(Problem(where, f"is not valid JSON: {printable(error)}")) from error


def _require_shallow(text: str, where: str, max_depth: int) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        depth += (token in "[{") - (token in "]}")
        if depth > max_depth:
            raise InputError(Problem(where, f"is nested deeper than {max_depth} levels"))


def has_control(text: str) -> bool:
    """Whether a text holds control characters or halves of surrogate pairs, which no name needs."""
    return any(unicodedata.category(char) in ("Cc", "Cs") for char in text)


def beneath(directory: Path, plain_name: str) -> Path:
    """The path of a file that untrusted text names, directly in ``directory``.

    Raises:
        InputError: The name is empty, ``.`` or ``..``, holds a separator or control characters, or names a drive.
    """
    plain = plain_name not in ("", ".", "..") and not set(plain_name) & set("/\\:") and not has_control(plain_name)
    if not plain:
        raise InputError(Problem(printable(directory), f"{printable(plain_name)!r} is not a plain file name"))
    return directory / plain_name
