"""Data files beside the model: opened without believing a word of what the model says about them.

What a reader of ONNX has been fooled with, and what is against it here:

==================================  ==================================================================================
CVE-2022-25882, CVE-2024-27318      ``../`` and ``a/../../b`` in a location: no part of it may be ``..``, none is empty
CVE-2026-27489                      symbolic links: no part is followed, with one exception (below)
CVE-2026-34446, CVE-2026-34447      hard links (link count 1), linked parent directories (no part is followed)
CVE-2026-34445                      keys that become attributes, huge lengths: four known keys, held to the file's size
CVE-2024-27319                      reads out of bounds: offset + length within the file, length as dtype and shape need
GHSA-7w46-vvrh-m8q5                 functions that call themselves: refused before anything is followed (`_refused`)
CVE-2024-5187, -7776, -2025-51480   archives, downloads, writing outside: nothing is unpacked, fetched or written here
==================================  ==================================================================================

The exception: in the cache of the Hugging Face Hub (``models--NAME/snapshots/REVISION``) every file is a link to
``models--NAME/blobs/HASH``. A plain name that is such a link, into the same cache, is followed; nothing else is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import Identity, InputFile, has_control

KEYS = ("location", "offset", "length", "checksum")
"""All that external data may say."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
_MAX_PARTS = 8
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class External:
    """What a tensor says of its data: the file, where in it, how much (None: the rest), and the file's sha1 or None."""

    location: str
    offset: int
    length: int | None
    checksum: str | None


def parse(pairs: list[tuple[str, str]], where: Problem) -> External:
    """External data from its keys and values.

    Args:
        pairs: As the file has them.
        where: The place, with an empty message, for refusals.

    Raises:
        InputError: A key is unknown, twice or missing, a number is none, or the location is not a plain relative path.
    """

    def refused(message: str) -> InputError:
        return InputError(Problem(where.where, f"external data: {message}"))

    found = dict(pairs)
    if len(found) != len(pairs):
        raise refused("a key stands twice")
    for key in found:
        if key not in KEYS:
            raise refused(f"key {printable(key, 40)!r} is not one of {', '.join(KEYS)}")
    for key in ("offset", "length"):
        if key in found and not _DECIMAL.fullmatch(found[key]):
            raise refused(f"{key} {printable(found[key], 40)!r} is not a decimal number of at most 16 digits")
    if "checksum" in found and not _SHA1.fullmatch(found["checksum"].lower()):
        raise refused("checksum is not a sha1 in hexadecimal digits")
    location = found.get("location", "")
    parts = location.split("/")
    plain = not set(location) & set("\\:") and not has_control(location) and len(parts) <= _MAX_PARTS
    if not plain or any(part in ("", ".", "..") for part in parts):
        raise refused(f"location {printable(location)!r} is not a relative path that stays beside the model")
    length = int(found["length"]) if "length" in found else None
    return External(location, int(found.get("offset", "0")), length, found.get("checksum", "").lower() or None)


def open_external(directory: Path, location: str) -> InputFile:
    """Open a data file; ``location`` was checked by `parse`.

    Raises:
        InputError: It is not there, a part of the path is a link that may not be followed, or it is no regular file
            with one name.
    """
    path = directory / location
    *folders, name = location.split("/")
    with _directory(directory, folders, path) as parent:
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP or folders:
                raise _refused(path, _why(error)) from error
            descriptor = _open_blob(directory, path)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        kind = "has another name as well (a hard link)" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        raise _refused(path, f"{kind}; data files are read only where that cannot lead outside. Copy the model")
    return InputFile(path, descriptor, Identity.of(status))


def require_checksum(file: InputFile, wanted: str) -> None:
    """Hold a data file to the sha1 that the model gives for it.

    Raises:
        InputError: It has another one.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for chunk in file.chunks():
        digest.update(chunk)
    if digest.hexdigest() != wanted:
        raise _refused(file.path, f"has the sha1 {digest.hexdigest()}, the model says {wanted}")


def overlaps(spans: Mapping[tuple[str, int, int], str]) -> list[tuple[str, str]]:
    """Pairs of tensors whose bytes overlap in part; tensors of the very same bytes are one tensor with two names.

    Args:
        spans: By file, first and last byte: the name of a tensor.
    """
    found = []
    ordered = sorted(span for span in spans if span[1] < span[2])
    for before, after in pairwise(ordered):
        if before[0] == after[0] and after[1] < before[2]:
            found.append((spans[before], spans[after]))
    return found


@contextmanager
def _directory(root: Path, folders: list[str], path: Path) -> Iterator[int]:
    """The descriptor of the folder that a file lies in; the user's directory may be a link, what is in it may not."""
    try:
        current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, _why(error)) from error
    try:
        for folder in folders:
            try:
                inner = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=current)
            except OSError as error:
                raise _refused(path, _why(error)) from error
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _open_blob(directory: Path, path: Path) -> int:
    """Open what a link in a snapshot of the Hub's cache points to: a file directly in ``blobs`` of the same model."""
    root = next((p for p in Path(os.path.realpath(directory)).parents if p.name.startswith("models--")), None)
    target = Path(os.path.realpath(path))
    if root is None or target.parent != root / "blobs":
        raise _refused(path, "is a symbolic link; data files are read only where that cannot lead outside")
    try:
        return os.open(target, _FLAGS)
    except OSError as error:
        raise _refused(path, _why(error)) from error


def _why(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a part of the path is a symbolic link or no directory, which is not followed"
    return f"cannot be opened: {error.strerror}"


def _refused(path: Path, message: str) -> InputError:
    return InputError(Problem(printable(path), message))
