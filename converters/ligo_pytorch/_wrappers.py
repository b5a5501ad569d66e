"""What training loops wrap around weights, undone: entries of a checkpoint, and prefixes of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ligo_pytorch._tensors import OtherTensor, StoredTensor
from ligo_spec.errors import InputError, Problem, printable
from ligo_spec.family import Family, template_pattern
from ligo_spec.layout import BASE, todays_name

ENTRIES = ("state_dict", "model_state_dict", "model", "module")
"""Where a checkpoint of a training loop keeps the weights; beside them lie optimizers, counts and arguments."""

PARTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DataParallel, ``torch.compile``, FSDP and activation checkpointing add, at any depth."""

_MAX_LEVELS = 3


def state_of(value: Any) -> tuple[dict[Any, Any], list[str]]:
    """The dict that holds the weights, and what was undone to get at it.

    Raises:
        ValueError: There is none, or more than one.
    """
    undone: list[str] = []
    for _ in range(_MAX_LEVELS):
        inner = _inner(value)
        if not inner:
            break
        if len(inner) > 1:
            raise ValueError(f"holds weights in several entries ({', '.join(inner)}); save the one that you mean alone")
        undone.append(f"entry {inner[0]}")
        others = [printable(key, 40) for key in value if key != inner[0]]
        undone += [f"left aside {', '.join(others[:10])}{', ...' if len(others) > 10 else ''}"] if others else []
        value = value[inner[0]]
    if not _has_tensors(value):
        raise ValueError(f"holds no weights by name, neither at once nor in {', '.join(ENTRIES)}: {_described(value)}")
    return value, undone


def _inner(value: Any, levels: int = _MAX_LEVELS) -> list[str]:
    """The entries of a dict that hold weights, at once or in an entry of theirs."""
    if not isinstance(value, dict) or not levels:
        return []
    return [key for key in ENTRIES if _has_tensors(value.get(key)) or _inner(value.get(key), levels - 1)]


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, StoredTensor | OtherTensor) for item in value.values())


def _described(value: Any) -> str:
    if not isinstance(value, dict):
        return f"it is a {type(value).__name__}"
    keys = ", ".join(printable(key, 40) for key in list(value)[:5])
    return f"it has {keys}" + (", ..." if len(value) > 5 else "") if value else "it is empty"


def is_left_aside(name: str, value: Any) -> bool:
    """What a state dict may hold beside weights: states of modules that are no weights, and what is not there.

    ``get_extra_state`` is free to give anything; a count of batches serves norms with running means; None stands for a
    parameter that a module was made without.
    """
    leaf = name.rpartition(".")[2]
    return leaf == "_extra_state" or value is None or (leaf == "num_batches_tracked" and type(value) is int)


def bare_names(names: Iterable[str], family: Family | None, where: str) -> tuple[dict[str, str], list[str]]:
    """Every name without what wrappers added to it, by the name in the file; and what was removed.

    Args:
        names: As the file has them.
        family: Whose names they should be; what it declares is never removed. None where it is not known.
        where: The file, for messages.

    Raises:
        InputError: Two names are one without their wrappers.
    """
    found = {name: name for name in names}
    declared = _templates(family)
    kept = {part for template in declared for part in template.split(".")}
    undone = []
    for part in PARTS:
        held = [name for name, bare in found.items() if part in bare.split(".") and bare != part]
        if held and part not in kept:
            found |= {name: _without(found[name], part) for name in held}
            undone.append(f"prefix {part}.")
    shared = _shared_prefix(list(found.values()), family, declared)
    if shared is not None:
        found = {name: bare.removeprefix(shared) for name, bare in found.items()}
        undone.append(f"prefix {shared}")
    _require_distinct(found, where)
    return found, undone


def _without(name: str, part: str) -> str:
    return ".".join(piece for piece in name.split(".") if piece != part) or name


def _templates(family: Family | None) -> list[str]:
    """The names that a family's files have, with every base."""
    layout = None if family is None else family.layouts.get("hf")
    if layout is None:
        return []
    return [name.replace(BASE, base) for name in (*layout.tensors, *layout.drop) for base in layout.base]


def _shared_prefix(names: Sequence[str], family: Family | None, templates: Sequence[str]) -> str | None:
    """What all names begin with (Lightning's ``model.``), if the family declares some without it and none with it."""
    if family is None or not templates:
        return None
    is_declared = _declared(family, templates)
    if any(map(is_declared, names)):
        return None
    for count in range(1, _MAX_LEVELS + 1):
        first = {".".join(name.split(".")[:count]) + "." for name in names}
        prefix = first.pop()
        if first or any(name.count(".") < count for name in names):
            return None
        if any(is_declared(name.removeprefix(prefix)) for name in names):
            return prefix
    return None


def _declared(family: Family, templates: Sequence[str]) -> Callable[[str], bool]:
    layout = family.layouts["hf"]
    patterns = [template_pattern(template) for template in templates]
    return lambda name: any(pattern.fullmatch(todays_name(layout, name)) for pattern in patterns)


def _require_distinct(bare: Mapping[str, str], where: str) -> None:
    first: dict[str, str] = {}
    clashes = [(name, other) for name, short in bare.items() if (other := first.setdefault(short, name)) != name]
    if clashes:
        pairs = [(f"{printable(name)} and {printable(other)}", printable(bare[name])) for name, other in clashes]
        raise InputError(Problem(where, f"{both} are both {one} without their wrappers") for both, one in pairs)
