"""The strict reader of zip archives: the directory is held against the file, members against their checksums.

Format: APPNOTE.TXT of PKWARE, 4.3 and 4.5.3; of it, what ``numpy.savez`` writes: one disk, no comment, members stored
or deflated, sizes above 2^32 in extra fields.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.inputs import CHUNK, InputFile, refusal

STORED, DEFLATED = 0, 8

_MAX_DIRECTORY = 100_000_000
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_ENTRY, _LOCAL = b"PK\1\2", b"PK\3\4"
_UTF8, _ALLOWED_FLAGS = 0x0800, 0x080E  # deflate's levels, sizes after the data, UTF-8; no encryption, no patches

# Weights hardly shrink; a member that grows more than this was made to. Small ones may (biases of zeros).
_MAX_RATIO, _FREE = 100, 1 << 20


@dataclass(frozen=True)
class Member:
    """A file in an archive: where its data lies, and what they must come to."""

    name: str
    method: int
    offset: int
    packed: int
    size: int
    crc: int


def read_directory(file: InputFile) -> list[Member]:
    """The members of an archive, in the order of their data.

    Raises:
        InputError: The directory is cut off or malformed, members overlap, two have one name, or one is packed in a
            way that is not read.
    """
    count, size, offset = _directory_place(file)
    data = file.read(offset, size)
    entries, at = [], 0
    for _ in range(count):
        entry, at = _entry(file, data, at)
        entries.append(entry)
    if at != size:
        raise refusal(file.path, f"the archive's directory has {size} bytes, its {count} entries take {at}")
    members = sorted((_located(file, entry) for entry in entries), key=lambda pair: pair[1].offset)
    ends = [(*pair, f"the header of {printable(after[1].name)}") for pair, after in pairwise(members)]
    last = [(*pair, "the directory") for pair in members[-1:]]
    limits = [*(after[0] for after in members[1:]), offset]
    problems = [
        Problem(_where(file, member.name), f"its data overlaps {what}")
        for (_, member, what), limit in zip([*ends, *last], limits, strict=True)
        if member.offset + member.packed > limit
    ]
    problems += [Problem(_where(file, name), "comes twice in the archive") for name in _repeated(members)]
    if problems:
        raise InputError(problems)
    return [member for _, member in members]


def content(file: InputFile, member: Member, step: int = CHUNK) -> Iterator[bytes]:
    """The content of a member, piece by piece; who takes all of it knows that it has the size and the checksum.

    Raises:
        InputError: It does not, or it cannot be unpacked.
    """
    where, done, crc = _where(file, member.name), 0, 0
    for piece in _pieces(file, member, step):
        done, crc = done + len(piece), zlib.crc32(piece, crc)
        if done > member.size:
            break
        yield piece
    if done != member.size:
        raise InputError(Problem(where, f"unpacks to other than the {member.size} bytes that the directory says"))
    if crc != member.crc:
        raise InputError(Problem(where, f"has checksum {crc:08x}, the archive says {member.crc:08x}; it is damaged"))


def _pieces(file: InputFile, member: Member, step: int) -> Iterator[bytes]:
    packed = (
        file.read(member.offset + begin, min(step, member.packed - begin)) for begin in range(0, member.packed, step)
    )
    if member.method == STORED:
        yield from packed
        return
    unpacker = zlib.decompressobj(-15)
    try:
        for data in packed:
            while data:
                yield unpacker.decompress(data, step)
                data = unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error as error:
        raise InputError(Problem(_where(file, member.name), f"cannot be unpacked: {printable(error)}")) from error
    if not unpacker.eof or unpacker.unused_data:
        raise InputError(Problem(_where(file, member.name), "its packed data does not end where the directory says"))


def _where(file: InputFile, name: str) -> str:
    return f"{printable(file.path)}: {printable(name)}"


def _directory_place(file: InputFile) -> tuple[int, int, int]:
    """How many entries the directory has, its size, and where it begins."""
    if file.size < 22:
        raise refusal(file.path, f"has {file.size} bytes, an archive has at least 22")
    mark, disk, first, here, count, size, offset, comment = struct.unpack("<4sHHHHIIH", file.read(file.size - 22, 22))
    if mark != _END or comment:
        raise refusal(file.path, "does not end as an archive of NumPy; not an npz file, or cut off")
    end = file.size - 22
    locator = file.read(end - 20, 20) if end >= 20 else b""
    # By its mark, not by fields that overflow: NumPy's archives have it from 2^31 bytes on, where none does.
    if locator.startswith(_LOCATOR64):
        end, here, count, size, offset = _directory_place64(file, locator, end - 20)
    if disk or first or here != count:
        raise refusal(file.path, "is a part of an archive of several")
    if size > _MAX_DIRECTORY or offset + size != end or count * 46 > size:
        message = f"claims a directory of {count} entries in {size} bytes at byte {offset}, which ends at byte {end}"
        raise refusal(file.path, message)
    return count, size, offset


def _directory_place64(file: InputFile, locator: bytes, at: int) -> tuple[int, int, int, int, int]:
    """Where the end of a 64-bit directory is, the entries on this disk and on all, its size, and where it begins."""
    _, disk, place, disks = struct.unpack("<4sIQI", locator)
    if disk or disks != 1 or place + 56 != at:
        raise refusal(file.path, "the place of its 64-bit directory is not where an archive of NumPy has it")
    fields = struct.unpack("<4sQHHIIQQQQ", file.read(place, 56))
    if fields[0] != _END64 or fields[1] != 44 or fields[4] or fields[5]:
        raise refusal(file.path, "the end of its 64-bit directory is malformed")
    here, count, size, offset = fields[6:]
    return place, here, count, size, offset


def _entry(file: InputFile, data: bytes, at: int) -> tuple[Member, int]:
    """One entry of the directory, its offset still that of the local header; and where the next one begins."""
    fields = struct.unpack("<4sHHHHHHIIIHHHHHII", data[at : at + 46]) if at + 46 <= len(data) else (b"",)
    if fields[0] != _ENTRY:
        raise refusal(file.path, f"the archive's directory is malformed at its byte {at}")
    flags, method, crc, packed, size, named, extra, comment, disk, offset = (
        fields[i] for i in (3, 4, *range(7, 14), 16)
    )
    begin, end = at + 46, at + 46 + named + extra + comment
    name = _name(file, data[begin : begin + named], flags)
    if end > len(data) or disk:
        raise refusal(file.path, f"the archive's directory is malformed at its byte {at}")
    wide = _wide(data[begin + named : begin + named + extra], [size, packed, fields[16]])
    if wide is None or flags & ~_ALLOWED_FLAGS or method not in (STORED, DEFLATED):
        message = "is encrypted, packed by another method than deflate, or its entry is malformed"
        raise InputError(Problem(_where(file, name), message))
    size, packed, offset = wide
    if (method == STORED and size != packed) or size > max(_FREE, _MAX_RATIO * packed):
        message = (
            f"claims {size} bytes out of {packed}; stored members keep their size, packed ones grow {_MAX_RATIO}fold"
        )
        raise InputError(Problem(_where(file, name), message))
    return Member(name, method, offset, packed, size, crc), end


def _name(file: InputFile, raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise refusal(file.path, f"the name {printable(raw)} of a member is not UTF-8") from error


def _wide(extra: bytes, values: list[int]) -> list[int] | None:
    """Sizes and offset, those that do not fit into 32 bits taken from the extra field that has them."""
    short = [number for number, value in enumerate(values) if value == 0xFFFFFFFF]
    while short:
        if len(extra) < 4:
            return None
        kind, length = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1:
            if len(body) < 8 * len(short):
                return None
            found = struct.unpack(f"<{len(short)}Q", body[: 8 * len(short)])
            return [found[short.index(n)] if n in short else value for n, value in enumerate(values)]
    return values


def _located(file: InputFile, entry: Member) -> tuple[int, Member]:
    """Where a member's local header is, and the member with the offset of its data."""
    fields = struct.unpack("<4sHHHHHIIIHH", file.read(entry.offset, 30))
    named, extra = fields[9:]
    name = file.read(entry.offset + 30, named)
    if fields[0] != _LOCAL or fields[3] != entry.method or name != entry.name.encode():
        raise InputError(Problem(_where(file, entry.name), "its header and the archive's directory differ"))
    begin = entry.offset + 30 + named + extra
    return entry.offset, Member(entry.name, entry.method, begin, entry.packed, entry.size, entry.crc)


def _repeated(members: list[tuple[int, Member]]) -> list[str]:
    names = sorted(member.name for _, member in members)
    return [name for name, after in pairwise(names) if name == after]
