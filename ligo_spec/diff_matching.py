"""Which of the tensors that no name matches are one tensor after all: by what the config ties, and by content."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ligo_spec.checkpoint import FLOATS
from ligo_spec.diff_sides import Key, Print, Side, print_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """A tensor of A and one of B that are to be compared; None where there is no other.

    Args:
        a: In A.
        b: In B.
        again: The side that stores the tensor a second time, where this is about its second copy.
        certain: The second copy is known to be equal to the first one on its own side.
    """

    a: Key | None
    b: Key | None
    again: Literal["A", "B"] | None = None
    certain: bool = False


def leftovers_matched(a: Side, b: Side, by_name: Sequence[Match]) -> Iterator[Match]:
    """What remains after names: ties of the config, then equal content, then second copies; the rest alone."""
    pairs = {match.a: match.b for match in by_name if match.a and match.b}
    left_a = [key for key in a.tensors if key not in pairs]
    taken = {*pairs.values()}
    left_b = [key for key in b.tensors if key not in taken]
    tied_b, tied_a = _declared(a, left_b), _declared(b, left_a)
    yield from (Match(first, key, "B") for key, first in tied_b.items())
    yield from (Match(key, first, "A") for key, first in tied_a.items())
    moved = dict(_moved(a, b, [k for k in left_a if k not in tied_a], [k for k in left_b if k not in tied_b]))
    yield from (Match(one, other) for one, other in moved.items())
    pairs |= moved
    back = {other: one for one, other in pairs.items()}
    alone_a = [key for key in left_a if key not in pairs and key not in tied_a]
    alone_b = [key for key in left_b if key not in back and key not in tied_b]
    for key, first in _first_copies(a, alone_a, pairs).items():
        yield Match(key, None) if first is None else Match(key, pairs[first], "A", certain=True)
    for key, first in _first_copies(b, alone_b, back).items():
        yield Match(None, key) if first is None else Match(back[first], key, "B", certain=True)


def _declared(side: Side, left: Iterable[Key]) -> dict[Key, Key]:
    """Leftovers of the other side that this one does not store, since its config ties them to what it stores."""
    first = {key: next((tied for tied in side.tied_to(key) if tied in side.tensors), None) for key in left}
    return {key: tied for key, tied in first.items() if tied is not None}


def _first_copies(side: Side, left: Collection[Key], paired: Iterable[Key]) -> dict[Key, Key | None]:
    """For each leftover, the matched tensor of the same side that has its content, as it is or transposed."""
    if not left:
        return {}
    sizes = {(side.tensors[key].dtype, shape) for key in left for shape in _turns(side.tensors[key].shape)}
    known: dict[Print, Key] = {}
    for key in paired:
        stored = side.tensors[key]
        if (stored.dtype, stored.shape) in sizes and (found := side.telling_print(key)) is not None:
            known.setdefault(found, key)
    return {key: next((known[p] for p in _both_prints(side, key) if p in known), None) for key in left}


def _both_prints(side: Side, key: Key) -> Iterator[Print]:
    own = side.telling_print(key)
    if own is not None:
        yield own
        if len(own.shape) == 2:
            yield print_of(side.read(key).T, own.dtype)


def _moved(a: Side, b: Side, left_a: Sequence[Key], left_b: Sequence[Key]) -> Iterator[tuple[Key, Key]]:
    """Pairs of equal content: as it is before transposed, of one dtype before rounded; each tensor once.

    Every tensor that has one of its size on the other side is read once, and only prints are kept. Of several equal
    ones, that with the likest name is taken: biases of zeros are all the same.
    """
    there_a, there_b = _dtypes_by_shape(a, left_a), _dtypes_by_shape(b, left_b)
    exact: dict[Print, list[Key]] = {}
    narrowed: dict[Print, list[Key]] = {}
    for key in left_a:
        others = _beside(a, key, there_b)
        if others is not None:
            value, own = a.read(key), a.tensors[key].dtype
            exact.setdefault(print_of(value, own), []).append(key)
            for dtype in others:
                narrowed.setdefault(print_of(value, dtype), []).append(key)
    ways = {key: list(_ways(b, key, _beside(b, key, there_a))) for key in left_b}
    free = {*left_a}
    for rank in range(max((len(found) for found in ways.values()), default=0)):
        for key in [key for key in left_b if rank < len(ways[key])]:
            prints, narrow = ways[key][rank]
            known = narrowed if narrow else exact
            ones = [one for found in prints for one in known.get(found, ()) if one in free]
            if ones:
                one = max(ones, key=lambda one: _likeness(one.name, key.name))
                free.remove(one)
                ways[key] = []
                yield one, key


def _ways(side: Side, key: Key, others: Sequence[str] | None) -> Iterator[tuple[list[Print], bool]]:
    """The prints that a tensor of A has if it is this one, the surest first; and whether it was rounded for that."""
    if others is None:
        return
    value, own = side.read(key), side.tensors[key].dtype
    turns = [value, value.T] if value.ndim == 2 else [value]
    straight = [print_of(turn, own) for turn in turns]
    yield from (([found], False) for found in straight)
    yield from (([print_of(turn, dtype) for dtype in others], False) for turn in turns)
    yield from (([found], True) for found in straight)


def _dtypes_by_shape(side: Side, keys: Iterable[Key]) -> dict[Shape, set[str]]:
    found: dict[Shape, set[str]] = {}
    for key in keys:
        found.setdefault(side.tensors[key].shape, set()).add(side.tensors[key].dtype)
    return found


def _beside(side: Side, key: Key, there: Mapping[Shape, set[str]]) -> list[str] | None:
    """Other floats in which the other side has tensors of this one's size; None where it has none of that size."""
    stored = side.tensors[key]
    dtypes = {dtype for shape in _turns(stored.shape) for dtype in there.get(shape, ())}
    if not dtypes:
        return None
    return sorted((dtypes & {*FLOATS}) - {stored.dtype}) if stored.dtype in FLOATS else []


def _turns(shape: Shape) -> tuple[Shape, ...]:
    return (shape, shape[::-1]) if len(shape) == 2 else (shape,)


def _likeness(one: str, other: str) -> int:
    """How many parts two names have in common at their ends."""
    count = 0
    for first, second in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if first != second:
            break
        count += 1
    return count
