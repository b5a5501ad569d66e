"""Condition 4 of the certificate: attention over whole heads that find their own key-value head (SPEC.md 5.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ligo_spec.family import Family
from ligo_spec.maps import Map, Matrix
from ligo_spec.measures import Rows, largest, nonzero_rows, off_rotation
from ligo_spec.operator import Growth, Operator
from ligo_spec.relations import Attention


def rows_read(family: Family, operator: Operator, space: str, layer: int | None) -> Rows:
    """Rows of a space that a tensor reads, in any term; those of the first term where no tensor reads it."""
    readers = family.readers(space)
    terms = [term for term in operator.terms if any(map(term.serves, readers))] or [operator.main]
    rows = [nonzero_rows(term.map(space, "in", layer)) for term in terms]
    return np.asarray(np.any(rows, axis=0))


def answering_heads(growth: Growth, operator: Operator, attention: Attention, layer: int | None) -> Rows:
    """Heads whose output is read."""
    family = growth.small.family
    heads, side = (growth.large.sizes[axis] for axis in family.spaces[attention.context].axes)
    rows = rows_read(family, operator, attention.context, layer)
    return np.asarray(rows.reshape(heads, side).any(axis=1))


def asking_heads(growth: Growth, operator: Operator, attention: Attention, layer: int | None) -> Rows:
    """Heads whose scores are read: by the heads that talk to one another, or else by the same head's values."""
    if attention.scores is None or attention.weights is None:
        return answering_heads(growth, operator, attention, layer)
    return rows_read(growth.small.family, operator, attention.scores, layer)


def rows_in_use(growth: Growth, operator: Operator, attention: Attention, space: str, layer: int | None) -> Rows:
    """Rows of the query or key space that belong to heads whose scores are read."""
    axes = growth.small.family.spaces
    read = asking_heads(growth, operator, attention, layer)
    own, width = (growth.large.sizes[axis] for axis in axes[space].axes)
    rows: Rows = np.repeat(read.reshape(own, -1).any(axis=1), width)
    return rows


def wrong_heads(
    growth: Growth, operator: Operator, attention: Attention, layer: int | None
) -> Iterable[tuple[str, float]]:
    """Problems of every query head that is read, with the size of each; ``("", 0)`` where there is none."""
    spaces = growth.small.family.spaces
    heads_axis, dim_axis = spaces[attention.query].axes
    groups_axis = spaces[attention.key].axes[0]
    small, large = growth.small.sizes, growth.large.sizes
    per_group = {"small": small[heads_axis] // small[groups_axis], "large": large[heads_axis] // large[groups_axis]}
    d, d_large = small[dim_axis], large[dim_axis]
    factor = np.sqrt(d_large / d) if attention.scaled else 1.0
    term = operator.main
    maps = {name: term.map(getattr(attention, name), "out", layer) for name in ("query", "key", "value", "context")}
    per_head = {
        what: term.map(space, "out", layer)
        for what, space in (("scores", attention.scores), ("weights", attention.weights))
        if space is not None
    }
    asking, answering = (of(growth, operator, attention, layer) for of in (asking_heads, answering_heads))
    yield "", 0.0

    def block(name: str, head: int) -> npt.NDArray[np.float64]:
        """The rows of one query head, or of its key-value head."""
        own_head = head // per_group["large"] if name in ("key", "value") else head
        return _head_blocks(maps[name], own_head, d, d_large)

    def whole(names: tuple[str, str], head: int, source: int, rows: Rows) -> Iterable[tuple[str, float]]:
        """What two blocks take from one small head and its key-value head, and how much they take from elsewhere."""
        for name in names:
            used = block(name, head) * rows[:, None, None]
            wanted = source // per_group["small"] if name in ("key", "value") else source
            own[name] = used[:, wanted, :]
            yield f"{name} head {head} is no whole head of the small model", largest(np.delete(used, wanted, axis=1))

    own: dict[str, Matrix] = {}
    read = rows_read(growth.small.family, operator, attention.context, layer).reshape(large[heads_axis], d_large)
    for head in range(large[heads_axis]):
        source = int(np.abs(block("context", head)[read[head]]).max(axis=(0, 2), initial=0.0).argmax())
        if answering[head]:
            yield from whole(("value", "context"), head, source, read[head])
            yield f"head {head}: value and context are carried over differently", largest(own["value"] - own["context"])
            if "weights" in per_head:
                yield f"weights of head {head} are not those of its values", _off(per_head["weights"], head, source)
        if asking[head]:
            if "weights" in per_head and "scores" in per_head:
                source = int(np.abs(per_head["scores"].rows(head, head + 1)).argmax())
            if "scores" in per_head:
                yield f"scores of head {head} are not those of its query", _off(per_head["scores"], head, source)
            rows = _scoring(growth, attention, block("query", head), block("key", head))
            yield from whole(("query", "key"), head, source, rows)
            score = own["query"].T @ own["key"] - factor * np.eye(d)
            yield f"head {head}: query and key do not keep the scores (softmax scale √(d'/d))", largest(score)
            if attention.rotary == "half":
                yield from _off_rotation(growth, attention, head, own["query"], own["key"])


def _scoring(growth: Growth, attention: Attention, query: Matrix, key: Matrix) -> Rows:
    """Rows of a head that add to a score: query and key are not zero there, or (where they turn) in the same pair."""
    used = [np.asarray(rows.any(axis=(1, 2)), dtype=np.bool_) for rows in (query, key)]
    if attention.rotary == "half":
        turned = growth.large.turning(attention)
        for rows in used if turned % 2 == 0 else ():
            rows[:turned] = np.tile(rows[:turned].reshape(2, -1).any(axis=0), 2)
    both: Rows = used[0] & used[1]
    return both


def _off(map_: Map, head: int, source: int) -> float:
    """How far one head's row is from a plain copy of ``source``."""
    row = map_.rows(head, head + 1)
    row[0, source] -= 1
    return largest(row)


def _off_rotation(
    growth: Growth, attention: Attention, head: int, query: Matrix, key: Matrix
) -> Iterable[tuple[str, float]]:
    """Coordinates (pairs, where they turn) at which query or key is zero are free: they add nothing to any score."""
    turned, turned_large = growth.small.turning(attention), growth.large.turning(attention)
    others = _rotary_types(growth.small.config) - set(attention.rotary_types)
    if turned != turned_large and others:
        yield f"rotary positions of type {', '.join(sorted(others))} depend on the size of a head", 1.0
    if turned % 2 or turned_large % 2 or not turned:
        yield f"{turned} → {turned_large} coordinates of a head cannot turn in pairs", 1.0
        return
    live = _live_pairs(query[:turned_large]) & _live_pairs(key[:turned_large])
    still = query[turned_large:].any(axis=1) & key[turned_large:].any(axis=1)
    for name, block in (("query", query), ("key", key)):
        kept = np.where(np.concatenate([live, live])[:, None], block[:turned_large], 0.0)
        rest = block[turned_large:]
        error = max(off_rotation(kept[:, :turned]), largest(kept[:, turned:]), largest(rest[still, :turned]))
        yield f"{name} head {head} does not commute with rotary positions", error


def _rotary_types(config: Mapping[str, Any]) -> set[str]:
    """The types that a config names, for all layers or by kind of layer."""
    found: set[str] = set()
    waiting = [config.get("rope_parameters"), config.get("rope_scaling")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            found |= {item for key, item in value.items() if key in ("rope_type", "type") and isinstance(item, str)}
            waiting += list(value.values())
    return found


def _live_pairs(rows: Matrix) -> Rows:
    pairs = rows.reshape(2, -1, rows.shape[1])
    return np.asarray(pairs.any(axis=(0, 2)), dtype=np.bool_)


def _head_blocks(map_: Map, head: int, d: int, d_large: int) -> npt.NDArray[np.float64]:
    """One large head's rows, split by small head: ``(d_large, heads_small, d)``."""
    return map_.rows(head * d_large, (head + 1) * d_large).reshape(d_large, -1, d)
