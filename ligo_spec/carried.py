"""The files beside the weights that a model needs as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path

from ligo_spec.formats import FORMATS
from ligo_spec.staging import Stage

CARRIED = [
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece*",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
]
"""Files of the small model that the large one needs as they are, as patterns."""


_NEVER = (".py", *(suffix for format in FORMATS.values() for suffix in format.suffixes))
"""Endings of files that hold code or weights, whatever they are called."""

RESUMED = ("scheduler.pt", "trainer_state.json")
"""Files beside an optimizer's state that say where in the training it is; carried over with it, byte for byte."""


def is_carried(name: str) -> bool:
    """Whether a file, by its plain name, is one that goes with a model."""
    return any(fnmatchcase(name, pattern) for pattern in CARRIED) and not name.endswith(_NEVER)


def carry(
    stage: Stage,
    directory: Path,
    weights: Collection[Path],
    more: Collection[str] = (),
    check: Callable[[Path], None] = lambda path: None,
    fetched: Collection[str] | None = None,
) -> list[str]:
    """Copy what the written model needs as it is; the names of the files that were left behind.

    Args:
        stage: The output in the making; what it holds already is not copied.
        directory: Where the files lie.
        weights: Files of the weights, which are neither copied nor counted as left behind.
        more: Names of files to copy beside those of `CARRIED`.
        check: Looks at each of these first.
        fetched: The files of the model in a cache, where other programs may have put more; all files elsewhere.

    Raises:
        InputError: A file was refused.
        OutputError: It cannot be written.
    """
    left, own = [], {path.name for path in weights}
    for path in sorted(directory.iterdir()):
        if path.name in own or path.name in stage.files or not path.is_file():
            continue
        if fetched is not None and path.name not in fetched:
            continue
        if path.name in more:
            check(path)
            stage.copy_file(path, path.name)
        elif is_carried(path.name):
            stage.copy_file(path, path.name)
        else:
            left.append(path.name)
    return left
