"""Outputs appear whole or not at all: written beside the target, forced to the disk, then renamed.

The order is: lock, stage, write and sync each file, sync the directory, rename without replacing, sync the parent.
While it lasts there are ``.NAME.lock`` and ``.NAME.staging`` beside the target. A killed process leaves them; the
next one that writes the same target removes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ligo_spec.errors import LigoError, printable
from ligo_spec.filesystem import Fs, append_problem, output_error, reporting
from ligo_spec.inputs import beneath, has_control, open_input, require_unchanged
from ligo_spec.locking import held_lock

Chunk = bytes | bytearray | memoryview

_MARKER = "made-by-ligo-spec"
_STEP = 1 << 24


@dataclass(frozen=True)
class StagedFile:
    """What was written to a file: size in bytes and sha256 in hexadecimal digits."""

    size: int
    sha256: str


class Stage:
    """An output in the making; made by `staged_directory` and `staged_file`.

    Attributes:
        target: Where the output will appear.
        path: The directory that holds the staged files until then.
        files: Every file written so far, by name, in the order of writing. A manifest is written last, from this.
    """

    def __init__(self, target: Path, fs: Fs) -> None:
        self.target = target
        self.files: dict[str, StagedFile] = {}
        # The files lie one level down, so that the marker beside them proves until the last moment who made this.
        self._root = target.with_name(f".{target.name}.staging")
        self.path = self._root / "output"
        self._fs = fs
        self._renaming: Path | None = None

    def require_space(self, needed: int) -> None:
        """Refuse early what could not be finished: ``needed`` bytes must be free where the output will lie.

        Raises:
            OutputError: Less is free.
        """
        with reporting(self.target, self._fs):
            free = self._fs.free_bytes(self.target.parent)
        if needed > free:
            message = f"does not fit: {needed} bytes needed, {free} free. Make room or write to another disk"
            raise output_error(self.target, message)

    def write_bytes(self, name: str, chunks: Iterable[Chunk]) -> StagedFile:
        """Write a new file from pieces, force it to the disk, and record its size and checksum.

        Args:
            name: Plain file name, not yet used in this stage.
            chunks: The content; a piece may be of any size, a view must be of single bytes.

        Raises:
            InputError: ``name`` is not a plain file name.
            OutputError: The file exists or cannot be written.
        """
        path = beneath(self.path, name)
        if name in self.files:
            raise LigoError(f"{self.target}: {name} is written twice")
        with self._reporting(name):
            descriptor = self._fs.create(path)
        try:
            written = self._write(descriptor, chunks, name)
            with self._reporting(name):
                self._fs.sync(descriptor)
        except BaseException:
            with suppress(OSError):
                self._fs.close(descriptor)
            raise
        with self._reporting(name):
            self._fs.close(descriptor)
        self.files[name] = written
        return written

    def _write(self, descriptor: int, chunks: Iterable[Chunk], name: str) -> StagedFile:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest.nbytes:
                with self._reporting(name):
                    count = self._fs.write(descriptor, rest[:_STEP])
                digest.update(rest[:count])
                size += count
                rest = rest[count:]
        return StagedFile(size, digest.hexdigest())

    def _reporting(self, name: str) -> AbstractContextManager[None]:
        # The user knows the final name, not the one in the stage.
        return reporting(self.target if name == self.target.name else self.target / name, self._fs)

    def copy_file(self, source: str | Path, name: str) -> StagedFile:
        """Carry a file over, byte for byte; mode and times are those of a new file.

        Raises:
            InputError: The source was refused or changed meanwhile, or ``name`` is not a plain file name.
            OutputError: The file exists or cannot be written.
        """
        with open_input(source) as file:
            written = self.write_bytes(name, file.chunks())
            require_unchanged(file.path, file.identity)
        return written

    def _begin(self) -> None:
        with reporting(self.target, self._fs):
            self._fs.make_directory(self._root)
            self._fs.close(self._fs.create(self._root / _MARKER))
            # Synced before anything else is in there: after a power cut, too, no file lies in it without the marker.
            self._fs.sync_directory(self._root)
            self._fs.make_directory(self.path)

    def _commit(self, item: Path) -> None:
        with reporting(self.target, self._fs):
            self._fs.sync_directory(self.path)
            self._renaming = item
            self._fs.rename(item, self.target)
            self._fs.sync_directory(self.target.parent)

    def _abort(self, error: BaseException) -> None:
        """Leave nothing behind; what cannot be undone is added to ``error``."""
        try:
            if self._renaming and not os.path.lexists(self._renaming):
                # The rename was done, what followed was not: an output that may not survive a power cut is none.
                self._fs.rename(self.target, self._renaming)
        except OSError as failure:
            append_problem(error, self.target, "is complete, may be lost in a power cut, and stays", failure)
        try:
            self._remove()
        except OSError as failure:
            append_problem(error, self._root, "could not be removed", failure)

    def _remove_leftover(self) -> None:
        """Remove what a killed process left, and only that.

        Raises:
            OutputError: Something else has the name of the staging directory.
        """
        with reporting(self._root, self._fs):
            try:
                status = os.lstat(self._root)
            except FileNotFoundError:
                return
            names = os.listdir(self._root) if stat.S_ISDIR(status.st_mode) else ["?"]
            if names and _MARKER not in names:
                raise output_error(self._root, "is in the way: not a staging directory of this program. Move it away")
            self._remove()

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            for name in os.listdir(self.path):
                self._fs.remove_file(self.path / name)
            self._fs.remove_directory(self.path)
        with suppress(FileNotFoundError):
            self._fs.remove_file(self._root / _MARKER)
        with suppress(FileNotFoundError):
            self._fs.remove_directory(self._root)


def json_bytes(value: Any) -> bytes:
    """A value as the text of a JSON file, the same value giving the same bytes."""
    # escaped: a config or a file name may hold halves of surrogate pairs, which UTF-8 cannot
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode("ascii")


@contextmanager
def staged_directory(
    target: str | Path, *, sources: Iterable[str | Path] = (), fs: Fs | None = None
) -> Iterator[Stage]:
    """A new directory, complete or absent: what the body writes to the stage appears when the body ends well.

    Args:
        target: The directory to make; its parent must exist.
        sources: What is read meanwhile; the target may not lie in it, hold it or be it.
        fs: The calls that change files; tests bring their own.

    Raises:
        OutputError: The target exists, overlaps a source, is being written by another process, or cannot be written.
            Nothing is left under its name then, nor after any error of the body.
    """
    with _staged(Path(target), sources, fs or Fs()) as stage:
        yield stage
        stage._commit(stage.path)


@contextmanager
def staged_file(target: str | Path, *, sources: Iterable[str | Path] = (), fs: Fs | None = None) -> Iterator[Stage]:
    """A new file, complete or absent; the body writes it as ``stage.target.name``, and nothing else.

    Args:
        target: The file to make; its parent must exist.
        sources: As for `staged_directory`.
        fs: As for `staged_directory`.

    Raises:
        OutputError: As for `staged_directory`.
    """
    with _staged(Path(target), sources, fs or Fs()) as stage:
        yield stage
        if set(stage.files) != {stage.target.name}:
            raise LigoError(f"{stage.target}: the stage of a file holds {sorted(stage.files)}")
        stage._commit(stage.path / stage.target.name)


@contextmanager
def _staged(target: Path, sources: Iterable[str | Path], fs: Fs) -> Iterator[Stage]:
    target = _resolved(target)
    _refuse_overlap(target, sources)
    with held_lock(target.with_name(f".{target.name}.lock"), fs):
        stage = Stage(target, fs)
        stage._remove_leftover()
        _refuse_existing(target)
        try:
            stage._begin()
            yield stage
        except BaseException as error:
            stage._abort(error)
            raise
        # The output is complete and durable; what stays of the stage, the next run removes.
        with suppress(OSError):
            stage._remove()


def check_target(target: str | Path, *, sources: Iterable[str | Path] = ()) -> None:
    """Refuse what `staged_directory` would refuse, without touching anything; for a dry run.

    Raises:
        OutputError: The target exists, overlaps a source, or its parent is missing or may not be written.
    """
    path = _resolved(Path(target))
    _refuse_overlap(path, sources)
    _refuse_existing(path)


def _resolved(target: Path) -> Path:
    """The target with its parent's real path, so that all names of one place share one lock."""
    if target.name in ("", "..") or has_control(target.name):
        raise output_error(target, "does not name a new file or directory")
    try:
        parent = Path(os.path.realpath(target.parent, strict=True))
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise output_error(target.parent, "no such directory. Make it, or choose another output") from error
    if not parent.is_dir():
        raise output_error(target.parent, "is not a directory. Choose another output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise output_error(target.parent, "may not be written. Choose another output")
    return parent / target.name


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise output_error(target, "already exists. Remove it, or choose another output")


def _refuse_overlap(target: Path, sources: Iterable[str | Path]) -> None:
    for source in (Path(os.path.realpath(source)) for source in sources):
        if _same(target, source):
            raise output_error(target, "is the source itself. Choose another output")
        if any(_same(parent, source) for parent in target.parents):
            raise output_error(target, f"lies inside the source {printable(source)}. Choose another output")
        if any(_same(target, parent) for parent in source.parents):
            raise output_error(target, f"holds the source {printable(source)}. Choose another output")


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are one: by name, or by inode, which sees hard links and file systems mounted twice."""
    try:
        return first == second or os.path.samefile(first, second)
    except OSError:
        return False
