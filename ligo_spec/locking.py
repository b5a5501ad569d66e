"""One writer per output: a lock file beside the target, held by ``flock`` and so released by the system at a crash."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ligo_spec.filesystem import Fs, append_problem, output_error, reporting

# Of one length for every process, so that a new record covers the one that a killed process left.
_RECORD = "ligo-spec {:>20}\n"
_OURS = re.compile(rb"ligo-spec +(\d+)\n")


@contextmanager
def held_lock(path: Path, fs: Fs) -> Iterator[None]:
    """Hold the lock file ``path`` while the body runs, and remove it afterwards.

    Raises:
        OutputError: Another process holds it (the message names it), the file is not a lock of ours, or it cannot
            be made.
    """
    with reporting(path, fs):
        descriptor = _take(path, fs)
    try:
        yield
    except BaseException as error:
        try:
            _release(descriptor, path, fs)
        except OSError as failure:
            append_problem(error, path, "could not be removed", failure)
        raise
    # The output is complete by now. A lock file that stays behind holds nothing up: the next run takes it over.
    with suppress(OSError):
        _release(descriptor, path, fs)


def _take(path: Path, fs: Fs) -> int:
    while True:
        descriptor = fs.open_lock(path)
        try:
            if _lock(descriptor, path, fs):
                return descriptor
        except BaseException:
            with suppress(OSError):
                _release(descriptor, path, fs)
            raise
        fs.close(descriptor)


def _lock(descriptor: int, path: Path, fs: Fs) -> bool:
    """Lock and sign the file; false when it was removed by its last holder in the meantime."""
    if not _is_ours(descriptor):
        raise output_error(path, "is in the way: not a lock file of this program. Move it away")
    if not fs.lock(descriptor):
        raise output_error(path, f"{_holder(descriptor)} writes this output. Wait for it, or choose another output")
    if not _is_at(descriptor, path):
        return False
    record = memoryview(_RECORD.format(os.getpid()).encode())
    while record:
        record = record[fs.write(descriptor, record) :]
    return True


def _release(descriptor: int, path: Path, fs: Fs) -> None:
    """Remove the lock file while it is locked, if it is ours to remove; close it in any case."""
    try:
        if _is_ours(descriptor) and fs.lock(descriptor) and _is_at(descriptor, path):
            fs.remove_file(path)
    finally:
        fs.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    content = os.pread(descriptor, 64, 0) if stat.S_ISREG(status.st_mode) else b"?"
    # Empty: made a moment ago, or by a process that was killed before it signed. Zeros: a power cut took the bytes.
    return not content.strip(b"\0") or bool(_OURS.fullmatch(content))


def _holder(descriptor: int) -> str:
    match = _OURS.match(os.pread(descriptor, 64, 0))
    return f"process {int(match[1])}" if match else "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
