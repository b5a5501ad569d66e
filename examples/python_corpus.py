"""A small text corpus that every Python already has: the source of its own standard library.

``python examples/python_corpus.py OUT`` writes ``OUT/train/part-*.txt`` and ``OUT/heldout/part-*.txt``.
"""

import argparse
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PART_BYTES = 2_000_000
DEFAULT_LIMIT_BYTES = 16_000_000  # more than the library holds, so nothing is left out

# Tests and tables are not prose-like code, and third-party packages differ from one installation to the next.
SKIPPED_FOLDERS = frozenset(
    ["__pycache__", "dist-packages", "encodings", "idle_test", "pydoc_data", "site-packages", "test", "tests"]
)
# Generated when Python was built: they hold that machine's paths.
SKIPPED_PREFIXES = ("_sysconfigdata", "python-config")


class CorpusCounts(NamedTuple):
    """How many source files and UTF-8 bytes went into each split."""

    train_files: int
    train_bytes: int
    heldout_files: int
    heldout_bytes: int


def write_corpus(directory: Path | str, *, limit_bytes: int) -> CorpusCounts:
    """Write the running Python's standard library as ``train/*.txt`` and ``heldout/*.txt``, about 90 to 10.

    A source file is held out by the hash of its name below the library, so it stays on its side of the split on
    every machine and in every version of Python. Parts of an earlier run in ``directory`` are replaced.

    Args:
        directory: Where to put the two folders; made where it is missing.
        limit_bytes: At most this many bytes in both splits together, nine tenths of them for training.

    Returns:
        The files and bytes of each split.

    Raises:
        ValueError: When a split would be empty.
    """
    limits = {"train": limit_bytes - limit_bytes // 10, "heldout": limit_bytes // 10}
    splits: dict[str, list[bytes]] = {"train": [], "heldout": []}
    sizes = {"train": 0, "heldout": 0}
    for name, text in _source_texts(Path(sysconfig.get_paths()["stdlib"])):
        split = "heldout" if _is_heldout(name) else "train"
        if sizes[split] + len(text) <= limits[split]:
            splits[split].append(text)
            sizes[split] += len(text)
    for split, texts in splits.items():
        if not texts:
            raise ValueError(f"limit_bytes {limit_bytes} leaves no source file for {split}")
    for split, texts in splits.items():
        _write_parts(Path(directory) / split, texts)
    return CorpusCounts(len(splits["train"]), sizes["train"], len(splits["heldout"]), sizes["heldout"])


def _source_texts(library: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name below ``library`` and the text of each source file.

    They come in the order of their hashes, so that a limited corpus is a sample of the library and not its letter a.
    """
    names = (path.relative_to(library).as_posix() for path in library.rglob("*.py"))
    for name in sorted(filter(_is_wanted, names), key=_digest):
        try:
            text = (library / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few sources declare an older encoding
        if text:
            yield name, text.removesuffix("\n").encode() + b"\n"


def _is_wanted(name: str) -> bool:
    *folders, base = name.split("/")
    return SKIPPED_FOLDERS.isdisjoint(folders) and not base.startswith(SKIPPED_PREFIXES)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _is_heldout(name: str) -> bool:
    # The order uses the first bytes of the digest, the split the last ones: the two must not depend on each other.
    return int.from_bytes(_digest(name)[-4:], "big") % 10 == 0


def _write_parts(folder: Path, texts: list[bytes]) -> None:
    """Write the texts in order as files of about ``PART_BYTES``; a source file is never cut."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("part-*.txt"):
        stale.unlink()
    parts: list[list[bytes]] = [[]]
    size = 0
    for text in texts:
        if size and size + len(text) > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += len(text)
    for number, part in enumerate(parts):
        (folder / f"part-{number:03}.txt").write_bytes(b"".join(part))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the standard library of this Python as a text corpus.")
    parser.add_argument("out", type=Path, help="folder for train/ and heldout/")
    parser.add_argument("--limit-bytes", type=int, default=DEFAULT_LIMIT_BYTES, help="default: %(default)s")
    args = parser.parse_args()
    counts = write_corpus(args.out, limit_bytes=args.limit_bytes)
    print(f"train:   {counts.train_files} files, {counts.train_bytes} bytes")
    print(f"heldout: {counts.heldout_files} files, {counts.heldout_bytes} bytes")


if __name__ == "__main__":
    main()
