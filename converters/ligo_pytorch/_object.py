"""The object in a file of ``torch.save``, read as data: the opcodes of a pickle, of which none can run anything.

This is not Python's unpickler, nor torch's restricted one, which takes what it is told to make (a ``bytearray`` of a
terabyte, a message that prints a structure of 2^60 items), and cannot say which tensor it is that it cannot make.
Here every name is looked up in a closed table (`CALLS`), and steps, depth and numbers are bounded.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from ligo_pytorch._calls import CALLS, KNOWN, storage
from ligo_pytorch._imports import imports, todays_name
from ligo_pytorch._tensors import Name

MAX_OBJECT = 64 << 20
"""Bytes of an object, without its tensors: names and numbers of millions of parameters are smaller."""

MAX_STEPS = 1 << 23
"""Opcodes of an object; one tensor takes some twenty."""

MAX_DEPTH = 32
"""Containers inside one another."""

_MAX_KEY = 1 << 60  # below it numbers have hashes of their own: no file can make a dictionary slow


class ForeignNameError(ValueError):
    """The object wants something from a module that is not in the table."""


def read_object(data: bytes) -> Any:
    """The value of a pickle: plain values, and descriptions of tensors.

    Returns:
        Numbers, texts, bytes, None, lists, tuples, sets and dicts of these; an ``OrderedDict`` where it was one; a
        ``StoredTensor`` or ``OtherTensor`` for a tensor; a ``Name`` for a dtype.

    Raises:
        ValueError: It is damaged, or does what ``torch.save`` does not; the message says what. Where it would import
            something, this is a `ForeignNameError` with all that it would.
    """
    machine, end = _Machine(), 0
    try:
        for opcode, argument, place in pickletools.genops(data):
            machine.step(opcode.name, argument)
            end = (place or 0) + 1
    except ForeignNameError as error:
        raise ForeignNameError(imports(data) or str(error)) from error
    except (IndexError, KeyError) as error:  # a stack or a memo that does not have what is asked of it
        raise ValueError("it is damaged: an opcode finds nothing to work on") from error
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow its end")
    value = machine.result()
    _require_shallow(value)
    return value


def _require_shallow(value: Any) -> None:
    """Containers must not be nested deeply or hold themselves, or whoever walks through them falls."""
    seen: dict[int, int] = {}
    waiting = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if not isinstance(item, dict | list | tuple) or seen.get(id(item), 0) >= depth:
            continue
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        seen[id(item)] = depth
        waiting += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]


class _Machine:
    """The stack, the marks in it and the memo; `step` does one opcode."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def result(self) -> Any:
        """What stands on the stack at the end, alone.

        Raises:
            ValueError: Something else is left.
        """
        if len(self._stack) != 1 or self._marked:
            raise ValueError("it is damaged: it leaves more or less than one value")
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """Do one opcode.

        Raises:
            ValueError: It is none that plain data needs, or cannot be done here.
        """
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ValueError(f"it has more than {MAX_STEPS} steps")
        if opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode]())
        elif opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"):
            raise ForeignNameError("a class")
        else:
            raise ValueError(f"it has the opcode {opcode}, which torch.save does not use")

    def _nothing(self, _: Any) -> None:
        """PROTO, FRAME, STOP: of no effect here."""

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _tuple(self, _: Any) -> None:
        items = tuple(self._since_mark())
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target += items

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _setitems(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str or (type(key) is int and abs(key) < _MAX_KEY)):
                raise ValueError("a dict has a key that is neither text nor a number")
            if key in target:
                raise ValueError(f"the key {key!r} stands twice in one dict")
            target[key] = value

    def _additems(self, _: Any) -> None:
        items, target = self._since_mark(), self._stack[-1]
        if not isinstance(target, set):
            raise ValueError("it adds to what is no set")
        target |= CALLS["builtins.set"](items)

    def _global(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("it names something by what is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        path = todays_name(module, name)
        if path not in KNOWN:
            raise ForeignNameError(path)
        self._stack.append(Name(path))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name) or function.path not in CALLS or not isinstance(arguments, tuple):
            raise ValueError(f"it calls {function.path if isinstance(function, Name) else 'what is no function'}")
        try:
            self._stack.append(CALLS[function.path](*arguments))
        except TypeError as error:  # more or fewer arguments than the function has
            raise ValueError(f"it calls {function.path} with arguments of another number or kind") from error

    def _build(self, _: Any) -> None:
        """Attributes (``_metadata``) of an ordered dict: versions of modules, nothing that we read."""
        self._stack.pop()
        if type(self._stack[-1]) is not OrderedDict:
            raise ValueError("it sets attributes of what has none")

    def _persistent(self, _: Any) -> None:
        self._stack.append(storage(self._stack.pop()))


_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}

_LITERALS = frozenset(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    )
)

_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._nothing,
    "FRAME": _Machine._nothing,
    "STOP": _Machine._nothing,
    "MARK": _Machine._mark,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "ADDITEMS": _Machine._additems,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
