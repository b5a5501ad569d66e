"""Every change of the file system goes through one small object, so that tests can make each of them fail."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ligo_spec.errors import LigoError, OutputError, Problem, printable

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)

_REMEDIES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit of the process or file system",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EEXIST: "it already exists",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOLCK: "the file system has no locks; write to a local disk and move the result",
}


class Fs:
    """The calls that change files; a test overrides them to count, to fail or to record."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, with the mode that the umask allows."""
        os.mkdir(path)

    def create(self, path: Path) -> int:
        """Create a file that must not exist; a descriptor to write to."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open_lock(self, path: Path) -> int:
        """Open a lock file, made when missing."""
        # No link is followed and no pipe is waited for: whoever planted one gets an error, not a write elsewhere.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(path, flags, 0o666)

    def lock(self, descriptor: int) -> bool:
        """Take the exclusive lock of an open file; false when another process has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the bytes; how many."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Force a file's bytes to the disk."""
        os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Force a directory's entries to the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory a name that must not exist."""
        if not _rename_exclusively(source, target):
            # Plain rename replaces an empty directory in silence, so the check stays even where it can be outrun.
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            os.rename(source, target)

    def remove_file(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still write where ``path`` lies."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def _rename_exclusively(source: Path, target: Path) -> bool:
    """Linux's ``renameat2(RENAME_NOREPLACE)``; false where the system or the file system does not have it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(target))


def output_error(path: Path, message: str) -> OutputError:
    """The refusal of an output: its path, escaped, and what is wrong."""
    return OutputError(Problem(printable(path), message))


@contextmanager
def reporting(path: Path, fs: Fs) -> Iterator[None]:
    """Turn the system's errors into one line about ``path``.

    Raises:
        OutputError: The body raised an ``OSError``.
    """
    try:
        yield
    except LigoError:
        raise
    except OSError as error:
        raise output_error(path, f"cannot be written: {_reason(error)}{_free(error, path, fs)}") from error


def _reason(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0) or error.strerror or str(error)


def _free(error: OSError, path: Path, fs: Fs) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    try:
        existing = next(parent for parent in path.absolute().parents if parent.is_dir())
        return f", {fs.free_bytes(existing)} bytes are free. Make room or write to another disk"
    except OSError:
        return ". Make room or write to another disk"


def append_problem(error: BaseException, path: Path, what: str, cleanup: OSError) -> None:
    """Add a failed clean-up to the error that made it necessary; the first error stays the first."""
    problem = Problem(printable(path), f"{what}: {_reason(cleanup)}")
    if isinstance(error, LigoError):
        error.problems += (problem,)
    else:
        error.add_note(str(problem))
