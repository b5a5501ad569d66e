"""The archive that ``torch.save`` makes, strictly: a zip of stored records, one after another, nothing between them.

Zip readers disagree about files that were made to confuse them. Here a file has one reading or none: the directory
stands at its very end, every record has one name and its bytes for itself, and all of it is compared with the size
of the file before anything is read by it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ligo_pytorch._imports import imports
from ligo_spec.errors import InputError, printable
from ligo_spec.inputs import InputFile, has_control, refusal

MAX_RECORDS = 1 << 20
MAX_DIRECTORY = 1 << 28
_SCANNED = 1 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEAD = struct.Struct("<4s5H3L2H")

_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_DESCRIBED, _UTF8 = 0x0008, 0x0800
_DESCRIPTORS = (12, 16, 20, 24)  # checksum and two sizes of 4 or 8 bytes, with or without a signature
_TORCHSCRIPT = ("constants.pkl", "code")


class Record(NamedTuple):
    """Where the bytes of a record lie in the file, how many there are, and their checksum."""

    offset: int
    size: int
    checksum: int


class _Entry(NamedTuple):
    name: str
    flags: int
    checksum: int
    size: int
    header: int


def read_directory(file: InputFile) -> dict[str, Record]:
    """The records of an archive, by name without the folder that all of them lie in.

    Raises:
        InputError: The file is no such archive, is cut off, or could be read in more than one way.
    """
    start, size, count = _directory_place(file)
    entries = sorted(_entries(file, start, size, count), key=lambda entry: entry.header)
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise refusal(file.path, f"has two records of the name {printable(twice[0])}")
    records = dict(_placed(file, entries, start))
    return _in_one_folder(file, records)


def _directory_place(file: InputFile) -> tuple[int, int, int]:
    """Offset, size and count of entries of the directory, which ends where its description begins."""
    tail = file.size - _END.size
    if tail < 0 or file.read(tail, 4) != b"PK\x05\x06":
        raise _no_archive(file)
    _, disk, first, here, count, size, start, comment = _END.unpack(file.read(tail, _END.size))
    end = tail
    place = tail - _LOCATOR.size
    if place >= 0 and file.read(place, 4) == b"PK\x06\x07":
        _, _, end, disks = _LOCATOR.unpack(file.read(place, _LOCATOR.size))
        if end + _END64.size != place or disks != 1:
            raise refusal(file.path, "has a directory that its end does not point to; not as torch.save writes it")
        small = (count, size, start)
        magic, _, _, _, disk, first, here, count, size, start = _END64.unpack(file.read(end, _END64.size))
        wide = zip(small, (count, size, start), (_FULL16, _FULL32, _FULL32), strict=True)
        if magic != b"PK\x06\x06" or not all(low in (value, full) for low, value, full in wide):
            raise refusal(file.path, "describes its directory in two ways that differ")
    if disk or first or comment or here != count or start + size != end:
        raise refusal(file.path, "has a directory that does not end where the file says; not as torch.save writes it")
    if count > MAX_RECORDS or size > MAX_DIRECTORY or count * _ENTRY.size > size:
        message = f"claims {count} records in a directory of {size} bytes; at most {MAX_RECORDS} in {MAX_DIRECTORY} fit"
        raise refusal(file.path, message)
    return start, size, count


def _no_archive(file: InputFile) -> InputError:
    """What a file is that does not end as an archive does."""
    head = file.read(0, min(file.size, 512))
    if head.startswith(b"PK"):
        why = "is no whole archive of torch.save: it is cut off, or bytes follow its end; copy it again"
    elif head.startswith(b"\x80") or head[257:262] == b"ustar":
        # Bare pickles with values between them: nothing in such a file can be held against its size or a checksum.
        names = imports(file.read(0, min(file.size, _SCANNED)))
        why = "is no archive of torch.save, but a bare object or tar, as before torch 1.6"
        why += f", which would import {printable(names, 400)}" if names else ""
        why += (
            "; load it in a sandbox with torch.load(path, weights_only=True) and save it anew with torch 1.6 or later"
        )
    else:
        why = "is no archive of torch.save; save it anew with torch 1.6 or later"
    return refusal(file.path, why)


def _entries(file: InputFile, start: int, size: int, count: int) -> Iterator[_Entry]:
    data, place = file.read(start, size), 0
    for _ in range(count):
        if place + _ENTRY.size > size:
            raise refusal(file.path, "has a directory that is cut off")
        (magic, _, _, flags, method, _, _, checksum, packed, full, name_size, extra_size, note, disk, _, _, header) = (
            _ENTRY.unpack_from(data, place)
        )
        end = place + _ENTRY.size + name_size
        if magic != b"PK\x01\x02" or disk or end + extra_size + note > size:
            raise refusal(file.path, f"has a directory that is damaged at byte {start + place}")
        name = _decoded(file, data[place + _ENTRY.size : end])
        full, packed, header = _widened(file, name, data[end : end + extra_size], full, packed, header)
        if method or packed != full:
            raise refusal(file.path, f"has a compressed record {printable(name)}; torch.save makes none")
        if flags & ~(_DESCRIBED | _UTF8):
            message = f"has a record {printable(name)} with flags {flags:#x}; torch.save sets none of these"
            raise refusal(file.path, message)
        yield _Entry(name, flags, checksum, full, header)
        place = end + extra_size + note
    if place != size:
        raise refusal(file.path, f"has {size - place} bytes in its directory that are no entry")


def _decoded(file: InputFile, data: bytes) -> str:
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refusal(file.path, f"has a record whose name is not UTF-8: {printable(data)}") from error
    if has_control(name):
        raise refusal(file.path, f"has a record whose name holds control characters: {printable(name)}")
    return name


def _widened(file: InputFile, name: str, extra: bytes, *small: int) -> list[int]:
    """Sizes and offset, from the zip64 field where 32 bits do not hold them."""
    fields = _fields(extra)
    wide = fields.get(1, b"")
    found = []
    for value in small:
        if value == _FULL32:
            if len(wide) < 8:
                raise refusal(file.path, f"has a record {printable(name)} of a size that it does not give")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(value)
    return found


def _fields(extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, place)
        fields.setdefault(kind, extra[place + 4 : place + 4 + size])
        place += 4 + size
    return fields


def _placed(file: InputFile, entries: list[_Entry], directory: int) -> Iterator[tuple[str, Record]]:
    """Every record behind its own head, without overlap, hole, or anything before the first and after the last."""
    reached, described = 0, False
    for entry in entries:
        _require_seam(file, entry.header - reached, described, f"before record {printable(entry.name)}")
        name = entry.name.encode()
        if entry.header + _HEAD.size + len(name) > directory:
            raise refusal(file.path, f"ends before record {printable(entry.name)} does; it is cut off")
        head = file.read(entry.header, _HEAD.size + len(name))
        magic, _, _, method, _, _, _, _, _, name_size, extra_size = _HEAD.unpack_from(head)
        if magic != b"PK\x03\x04" or method or name_size != len(name) or head[_HEAD.size :] != name:
            raise refusal(file.path, f"has another record where its directory says {printable(entry.name)}")
        start = entry.header + len(head) + extra_size
        reached, described = start + entry.size, bool(entry.flags & _DESCRIBED)
        if reached > directory:
            raise refusal(file.path, f"ends before record {printable(entry.name)} does; it is cut off")
        yield entry.name, Record(start, entry.size, entry.checksum)
    _require_seam(file, directory - reached, described, "before its directory")


def _require_seam(file: InputFile, gap: int, described: bool, where: str) -> None:
    if gap not in (_DESCRIPTORS if described else (0,)):
        kind = "an overlap" if gap < 0 else f"{gap} bytes that are no record"
        raise refusal(file.path, f"has {kind} {where}; not as torch.save writes it")


def _in_one_folder(file: InputFile, records: Mapping[str, Record]) -> dict[str, Record]:
    """The records without their folder, which is named after the file as it was saved."""
    roots = {name.partition("/")[0] for name in records}
    inner = {name.partition("/")[2]: record for name, record in records.items()}
    kinds = sorted({name.partition("/")[0] for name in inner} & set(_TORCHSCRIPT))
    if kinds:
        message = f"is a TorchScript archive (it has {', '.join(kinds)}), which is code; save the model's state_dict()"
        raise refusal(file.path, message)
    if len(roots) != 1 or "data.pkl" not in inner:
        raise refusal(file.path, "is a zip archive, but none of torch.save: it has no one folder with data.pkl in it")
    return inner
