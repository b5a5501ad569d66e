"""The one door for files of others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ligo_spec.errors import InputError
from ligo_spec.inputs import beneath, open_input, parse_json, read_json, read_text_file, require_unchanged


def test_reads_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with open_input(path) as file:
        assert file.size == 10
        assert file.read(3, 4) == b"3456"
        assert b"".join(file.chunks()) == b"0123456789"


def test_follows_links_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "link").symlink_to("blob")
    with open_input(tmp_path / "link") as file:
        assert file.read(0, 1) == b"x"


def test_refuses_what_is_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, message in [
            ("pipe", "is a pipe, not a regular file"),
            ("", "is a directory"),
            ("loop", "cannot be opened: Too many levels"),
            ("none", "cannot be opened: No such file"),
            ("socket", "cannot be opened"),
        ]:
            with pytest.raises(InputError, match=message):
                open_input(tmp_path / name)
    with pytest.raises(InputError, match="is a device"):
        open_input("/dev/null")
    with pytest.raises(InputError, match="null byte"):
        open_input("a\0b")


def test_refusals_leave_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(InputError):
            open_input(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_short_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    with open_input(path) as file:
        with pytest.raises(InputError, match="has 100 bytes, 101 are needed; the file is cut off"):
            file.read(1, 100)
        with pytest.raises(InputError, match="are needed"):
            file.read(0, 1 << 62)
        os.truncate(path, 40)
        with pytest.raises(InputError, match="ends at byte 40, the file changed while it was read"):
            file.read(0, 100)


def test_changes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    with open_input(path) as file:
        identity = file.identity
    require_unchanged(path, identity)
    os.utime(path, ns=(0, identity.mtime_ns + 1))
    with pytest.raises(InputError, match="changed during the run"):
        require_unchanged(path, identity)
    path.unlink()
    with pytest.raises(InputError, match="gone now"):
        require_unchanged(path, identity)


def test_text_is_bounded_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m.txt"
    path.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="has 3 bytes, at most 2 are read"):
        read_text_file(path, 2)
    with pytest.raises(InputError, match="not UTF-8 text: invalid start byte at byte 2") as caught:
        read_text_file(path, 3)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands twice"),
        ('{"x": {"k\\u0061": 1, "ka": 2}}', "key 'ka' stands twice"),
        ("[NaN]", "NaN is not finite"),
        ("[-Infinity]", "not finite"),
        ("[1e999]", "the number 1e999 is not finite"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ('{"a":' * 100_000, "nested deeper"),
        ("[" + "9" * 5000 + "]", "is not valid JSON: Exceeds the limit"),
        ("", "is not valid JSON"),
        ("{'a': 1}", "is not valid JSON"),
        ('{"a": 1} x', "is not valid JSON"),
        ('"' + '\\"' * 200_000, "is not valid JSON"),
    ],
)
def test_json_is_strict(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path, 10_000_000)
    assert str(caught.value).startswith(str(path))


def test_brackets_in_strings_are_no_nesting() -> None:
    assert parse_json('["' + "[" * 1000 + '\\"[["]', "x", max_depth=1) == ["[" * 1000 + '"[[']


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../a",
        "a/b",
        "a/",
        "..\\a",
        "C:a",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\ud800",
        "sub/../../a",
    ],
)
def test_only_plain_names_are_beneath(name: str) -> None:
    with pytest.raises(InputError, match="is not a plain file name"):
        beneath(Path("/models"), name)


@given(st.text())
def test_what_is_beneath_lies_in_the_directory(name: str) -> None:
    try:
        path = beneath(Path("/models"), name)
    except InputError:
        return
    assert path.parent == Path("/models")
    assert os.path.normpath(path) == str(path)
    assert path.name == name
