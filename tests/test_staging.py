"""Outputs appear whole or not at all: refusals, injected faults, kills, power cuts."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ligo_spec.errors import InputError, LigoError, OutputError
from ligo_spec.filesystem import Fs
from ligo_spec.staging import check_target, staged_directory, staged_file
from tests.effort import PROFILE
from tests.kill_points import CountingFs, SeamFs, grow, is_complete

ROOT = Path(__file__).parent.parent


class NoSyncFs(SeamFs):
    """For tests of names and errors, which need no disk."""

    def around(self, name: str, *args: Any) -> Any:
        return None if name.startswith("sync") else super().around(name, *args)


# --- the ordinary run -------------------------------------------------------------------------------------------------


def test_a_directory_appears_complete(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "grown") as stage:
        written = stage.write_bytes("a.bin", [b"one", memoryview(b"two"), b"", bytearray(b"three")])
        stage.copy_file(__file__, "b.py")
        assert not (tmp_path / "grown").exists()
        assert list(stage.files) == ["a.bin", "b.py"]
    assert (tmp_path / "grown" / "a.bin").read_bytes() == b"onetwothree"
    assert written.size == 11
    assert written.sha256 == hashlib.sha256(b"onetwothree").hexdigest()
    assert (tmp_path / "grown" / "b.py").read_bytes() == Path(__file__).read_bytes()
    assert os.listdir(tmp_path) == ["grown"]


def test_a_file_appears_complete(tmp_path: Path) -> None:
    with staged_file(tmp_path / "operator.safetensors") as stage:
        stage.write_bytes(stage.target.name, [b"content"])
        assert not (tmp_path / "operator.safetensors").exists()
    assert (tmp_path / "operator.safetensors").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["operator.safetensors"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        grow(tmp_path / "grown", NoSyncFs())
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "grown").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "grown").iterdir()} == {0o640}


def test_short_writes_are_continued(tmp_path: Path) -> None:
    class Stingy(NoSyncFs):
        def around(self, name: str, *args: Any) -> Any:
            return super().around(name, args[0], args[1][:7]) if name == "write" else super().around(name, *args)

    with staged_file(tmp_path / "a", fs=Stingy()) as stage:
        written = stage.write_bytes("a", [bytes(range(256))])
    assert (tmp_path / "a").read_bytes() == bytes(range(256))
    assert written.sha256 == hashlib.sha256(bytes(range(256))).hexdigest()


def test_names_are_plain_and_used_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a plain file name"), staged_directory(tmp_path / "x") as stage:
        stage.write_bytes("../escape", [b""])
    with pytest.raises(LigoError, match="a is written twice"), staged_directory(tmp_path / "x") as stage:
        [stage.write_bytes(name, [b""]) for name in ("a", "a")]
    with pytest.raises(LigoError, match="the stage of a file holds"), staged_file(tmp_path / "x") as stage:
        stage.write_bytes("other", [b""])
    assert os.listdir(tmp_path) == []


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file", "link", "dangling link"])
@pytest.mark.parametrize("staged", [staged_directory, staged_file])
def test_an_existing_target_is_refused(tmp_path: Path, kind: str, staged: Any) -> None:
    target = tmp_path / "grown"
    if "directory" in kind:
        target.mkdir()
        if kind == "directory":
            (target / "mine").write_text("precious")
    elif "link" in kind:
        (tmp_path / "there").mkdir()
        target.symlink_to("there" if kind == "link" else "nowhere")
    else:
        target.write_text("precious")
    before = _tree(tmp_path)
    for attempt in (lambda: staged(target).__enter__(), lambda: check_target(target)):
        with pytest.raises(OutputError, match=r"already exists\. Remove it") as caught:
            attempt()
        assert caught.value.exit_code == 4
    assert _tree(tmp_path) == before


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="grown: cannot be written: it already exists"):  # noqa: PT012, SIM117
        with staged_directory(tmp_path / "grown") as stage:
            stage.write_bytes("a", [b"ours"])
            (tmp_path / "grown").mkdir()
    assert os.listdir(tmp_path) == ["grown"]
    assert os.listdir(tmp_path / "grown") == []


def test_the_checked_rename_replaces_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ligo_spec.filesystem._rename_exclusively", lambda source, target: False)
    test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path)
    (tmp_path / "grown").rmdir()
    grow(tmp_path / "grown", NoSyncFs())
    assert is_complete(tmp_path / "grown")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/grown", "missing: no such directory"),
        ("file/grown", "no such directory|not a directory"),
        ("loop/grown", "no such directory"),
        ("..", "does not name a new file"),
        ("a\nb", "does not name a new file"),
        ("a\0b/c", "no such directory"),
        ("/proc/grown", "cannot be written|may not be written"),
        ("n" * 250, "the name is too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message):
        staged_directory(tmp_path / target).__enter__()
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_a_parent_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # modes do not bind root
    with pytest.raises(OutputError, match="may not be written"):
        staged_directory(tmp_path / "grown").__enter__()


def test_a_target_that_overlaps_a_source_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "models" / "small"
    source.mkdir(parents=True)
    (source / "model.safetensors").write_text("weights")
    (tmp_path / "alias").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source / "model.safetensors")
    before = _tree(tmp_path)
    for target, named, message in [
        (source, source, "is the source itself"),
        (tmp_path / "alias", source, "is the source itself"),
        (source / "grown", source, "lies inside the source"),
        (tmp_path / "alias" / "grown", source, "lies inside the source"),
        (source / "grown", tmp_path / "alias", "lies inside the source"),
        (tmp_path / "models", source, "holds the source"),
        (tmp_path / "hard", source / "model.safetensors", "is the source itself"),
    ]:
        with pytest.raises(OutputError, match=message):
            staged_directory(target, sources=[named]).__enter__()
        with pytest.raises(OutputError, match=message):
            check_target(target, sources=[named])
    assert _tree(tmp_path) == before


def test_what_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / ".grown.staging").mkdir()
    (tmp_path / ".grown.staging" / "mine").write_text("precious")
    before = _tree(tmp_path)
    with pytest.raises(OutputError, match="is in the way: not a staging directory"):
        grow(tmp_path / "grown", Fs())
    assert _tree(tmp_path) == before
    shutil.rmtree(tmp_path / ".grown.staging")
    (tmp_path / ".grown.lock").write_text("precious")
    before = _tree(tmp_path)
    with pytest.raises(OutputError, match="is in the way: not a lock file"):
        grow(tmp_path / "grown", Fs())
    assert _tree(tmp_path) == before
    (tmp_path / ".grown.lock").unlink()
    (tmp_path / ".grown.lock").symlink_to("elsewhere")
    with pytest.raises(OutputError, match=r"grown\.lock: cannot be written"):
        grow(tmp_path / "grown", Fs())
    assert not (tmp_path / "elsewhere").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "grown") as stage:
        stage.write_bytes("a", [b"first"])
        before = _tree(tmp_path)
        script = "import sys; from tests.kill_points import grow, Fs, Path; grow(Path(sys.argv[1]), Fs())"
        result = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "grown"], env=_environment(), capture_output=True, text=True
        )
        assert f"process {os.getpid()} writes this output" in result.stderr
        assert _tree(tmp_path) == before
    assert os.listdir(tmp_path) == ["grown"]


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    script = "import sys; from tests.kill_points import grow, Fs, Path; input(); grow(Path(sys.argv[1]), Fs())"
    command = [sys.executable, "-c", script, str(tmp_path / "grown")]
    pipe = subprocess.PIPE
    writers = [subprocess.Popen(command, env=_environment(), stdin=pipe, stderr=pipe, text=True) for _ in range(6)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    errors = [writer.communicate()[1] for writer in writers]
    assert sorted(writer.returncode for writer in writers) == [0, 1, 1, 1, 1, 1]
    assert all("writes this output" in error or "already exists" in error for error in errors if error)
    assert is_complete(tmp_path / "grown")
    assert os.listdir(tmp_path) == ["grown"]


def test_too_little_space_is_refused_before_writing(tmp_path: Path) -> None:
    class Small(Fs):
        def free_bytes(self, path: Path) -> int:
            return 99

    with staged_directory(tmp_path / "a", fs=Small()) as stage:
        stage.require_space(99)
    message = "b: does not fit: 100 bytes needed, 99 free"
    with pytest.raises(OutputError, match=message), staged_directory(tmp_path / "b", fs=Small()) as stage:
        stage.require_space(100)
    assert os.listdir(tmp_path) == ["a"]


# --- errors on the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("bad weights"), MemoryError(), SystemExit(143)])
def test_any_error_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise error

    with pytest.raises(type(error)) as caught, staged_directory(tmp_path / "grown") as stage:
        [stage.write_bytes(name, content) for name, content in [("done", [b"x"]), ("half", chunks())]]
    assert caught.value is error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, r"disk is full, \d+ bytes are free"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "size limit"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_systems_errors_become_one_line(tmp_path: Path, code: int, words: str) -> None:
    class Failing(Fs):
        def write(self, descriptor: int, data: memoryview) -> int:
            if bytes(data[:5]) == b"model":
                raise OSError(code, os.strerror(code))
            return super().write(descriptor, data)

    match = f"grown/weights: cannot be written: .*{words}"
    with pytest.raises(OutputError, match=match) as caught, staged_directory(tmp_path / "grown", fs=Failing()) as stage:
        stage.write_bytes("weights", [b"model"])
    assert "\n" not in str(caught.value)


@dataclass
class FaultyFs(NoSyncFs):
    """Fails call ``at``, or all calls from there on."""

    at: int
    code: int
    forever: bool
    count: int = 0
    failed: list[str] = field(default_factory=list)

    def around(self, name: str, *args: Any) -> Any:
        self.count += 1
        if self.count == self.at or (self.forever and self.count > self.at):
            self.failed.append(name)
            if name == "close":
                super().around(name, *args)
            raise OSError(self.code, os.strerror(self.code))
        return super().around(name, *args)


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_call_may_fail(tmp_path: Path, code: int, forever: bool) -> None:
    clean = CountingFs()
    grow(tmp_path / "clean", clean)
    assert clean.count > 40
    for at in range(1, clean.count + 1):
        directory = tmp_path / str(at)
        directory.mkdir()
        fs = FaultyFs(at, code, forever)
        try:
            grow(directory / "grown", fs)
        except OutputError as error:
            message = str(error)
        else:
            message = ""
        assert fs.failed
        _check_after_fault(directory, fs, message)
        shutil.rmtree(directory / "grown", ignore_errors=True)
        grow(directory / "grown", NoSyncFs())
        assert is_complete(directory / "grown")
        assert os.listdir(directory) == ["grown"]


def _check_after_fault(directory: Path, fs: FaultyFs, message: str) -> None:
    left = set(os.listdir(directory))
    if not message:
        # Only tidying up may fail in silence: the output is complete and synced by then.
        assert is_complete(directory / "grown")
        assert set(fs.failed) <= {"remove_file", "remove_directory", "lock", "close"}
        return
    assert "cannot be written" in message.splitlines()[0]
    if "grown" in left:
        # The disk took the rename and then nothing more, not even the rename back. Complete, and said so.
        assert fs.forever
        assert [name for name in fs.failed if name != "free_bytes"][:2] == ["sync_directory", "rename"]
        assert is_complete(directory / "grown")
        assert "is complete, may be lost in a power cut, and stays" in message
    if not fs.forever:
        assert not left
    if ".grown.staging" in left:
        assert "grown.staging: could not be removed" in message


def test_a_full_disk_of_the_kernel(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the real write() fail, not our stand-in."""
    script = (
        "import resource, sys; from tests.kill_points import grow, Fs, Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); grow(Path(sys.argv[1]), Fs())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "grown")]
    result = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert "cannot be written: the file would exceed the size limit" in result.stderr
    assert os.listdir(tmp_path) == []


# --- kills ------------------------------------------------------------------------------------------------------------


def _kill(tmp_path: Path, times: int, seed: int) -> dict[str, int]:
    command = [sys.executable, str(ROOT / "tests" / "kill_points.py"), str(tmp_path), str(times), str(seed)]
    result = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    states: dict[str, int] = json.loads(result.stdout)
    return states


def test_killed_at_any_moment(tmp_path: Path) -> None:
    states = _kill(tmp_path, times=100, seed=1)
    assert set(states) == {"points", "absent", "complete"}
    assert states["points"] > 140


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path: Path) -> None:
    times = 300 if PROFILE == "ci" else 5000  # of some 150 points; each kill takes a process
    assert set(_kill(tmp_path, times=times, seed=2)) == {"points", "absent", "complete"}


# --- power cuts -------------------------------------------------------------------------------------------------------


class Inode:
    """A file or directory as the kernel sees it, and as the disk has it for sure."""

    def __init__(self) -> None:
        self.data = self.durable_data = b""
        self.entries: dict[str, Inode] = {}
        self.durable_entries: dict[str, Inode] = {}


class DiskFs(Fs):
    """Runs for real, and keeps a model of what a power cut would leave after each call."""

    def __init__(self, top: Path, check: Any, *, skip: str = "") -> None:
        self.top, self.root, self.check, self.skip = top, Inode(), check, skip
        self.open: dict[int, Inode] = {}

    def _at(self, path: Path) -> Inode:
        inode = self.root
        for part in path.relative_to(self.top).parts:
            inode = inode.entries[part]
        return inode

    def _link(self, path: Path, inode: Inode) -> None:
        self._at(path.parent).entries[path.name] = inode
        self.check(self)

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._link(path, Inode())

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self.open[descriptor] = Inode()
        self._link(path, self.open[descriptor])
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        if descriptor in self.open:
            self.open[descriptor].data += bytes(data[:count])
            self.check(self)
        return count

    def close(self, descriptor: int) -> None:
        self.open.pop(descriptor, None)
        super().close(descriptor)

    def sync(self, descriptor: int) -> None:
        if self.skip != "sync":
            self.open[descriptor].durable_data = self.open[descriptor].data
        self.check(self)

    def sync_directory(self, path: Path) -> None:
        if self.skip != ("sync parent" if path == self.top else "sync directory"):
            self._at(path).durable_entries = dict(self._at(path).entries)
        self.check(self)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        moved = self._at(source.parent).entries.pop(source.name)
        self._link(target, moved)

    def remove_file(self, path: Path) -> None:
        super().remove_file(path)
        self._at(path.parent).entries.pop(path.name, None)
        self.check(self)

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self._at(path.parent).entries.pop(path.name)
        self.check(self)

    def disks(self) -> Iterator[dict[str, bytes] | None]:
        """The files of the target on each disk that a power cut may leave; None where the target is not there."""
        for top in (self.root.entries, self.root.durable_entries):
            grown = top.get("grown")
            for entries in (grown.entries, grown.durable_entries) if grown else ():
                yield {name: inode.durable_data for name, inode in entries.items()}
            if not grown:
                yield None


def _cut_power(tmp_path: Path, skip: str) -> tuple[int, int, bool]:
    """Disks looked at, torn ones among them, and whether the target survives a cut after the run."""
    grow(tmp_path / "expected", NoSyncFs())
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    seen = torn = 0

    def check(fs: DiskFs) -> None:
        nonlocal seen, torn
        for files in fs.disks():
            seen += 1
            torn += files is not None and files != wanted

    top = tmp_path / "disk"
    top.mkdir()
    fs = DiskFs(top, check, skip=skip)
    grow(top / "grown", fs)
    return seen, torn, all(files == wanted for files in fs.disks())


def test_a_power_cut_leaves_all_or_nothing(tmp_path: Path) -> None:
    seen, torn, survives = _cut_power(tmp_path, skip="")
    assert seen > 50
    assert torn == 0
    assert survives


@pytest.mark.parametrize("skip", ["sync", "sync directory"])
def test_without_syncs_a_power_cut_tears(tmp_path: Path, skip: str) -> None:
    """The twin of the test above: it can fail."""
    assert _cut_power(tmp_path, skip)[1] > 0


def test_without_the_last_sync_the_output_may_be_lost(tmp_path: Path) -> None:
    assert not _cut_power(tmp_path, "sync parent")[2]


def test_the_syncs_reach_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and directory that the model takes for synced was handed to fsync()."""
    synced: list[str] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    grow(tmp_path / "grown", Fs())
    staged = tmp_path / ".grown.staging"
    files = {str(staged / "output" / path.name) for path in (tmp_path / "grown").iterdir()}
    assert synced[0] == str(staged)
    assert set(synced[1:-2]) == files
    assert synced[-2:] == [str(staged / "output"), str(tmp_path)]


# --- tools ------------------------------------------------------------------------------------------------------------


def _tree(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
    }


def _environment() -> dict[str, str]:
    paths = [ROOT, ROOT / "converters"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OPENBLAS_NUM_THREADS": "1"}
