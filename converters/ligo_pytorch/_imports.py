"""What a pickle would import, told without running any of it."""

from __future__ import annotations

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator

from ligo_pytorch._calls import KNOWN

_MAX_SHOWN = 8


def imports(data: bytes) -> str:
    """The foreign names in one pickle or in several, one after another, as far as they can be read."""
    foreign = list(dict.fromkeys(name for name in _names(data) if name not in KNOWN))
    return ", ".join(foreign[:_MAX_SHOWN]) + (", ..." if len(foreign) > _MAX_SHOWN else "")


def _names(data: bytes) -> Iterator[str]:
    stream = io.BytesIO(data)
    texts = ["?", "?"]
    while stream.tell() < len(data):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str) and opcode.name in ("GLOBAL", "INST"):
                    yield todays_name(*argument.split(" ", 1))
                elif opcode.name == "STACK_GLOBAL":
                    yield todays_name(*texts)
                elif isinstance(argument, str):
                    texts = [texts[-1], argument]
        except ValueError:  # no pickle from here on: whoever asked refuses the file anyway, with what was found so far
            return


def todays_name(module: str, name: str) -> str:
    """A name as Python 3 has it: protocols below 3 write ``__builtin__`` for ``builtins``."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"
