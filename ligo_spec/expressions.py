"""Integer arithmetic over sizes, as family files write it: ``hidden_size // num_attention_heads``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def names_in(expression: str) -> set[str]:
    """The size names that ``expression`` uses.

    Raises:
        ValueError: It is not integer arithmetic (``+ - * //``, names, integers, parentheses).
    """
    return set(_names(expression))


def evaluate(expression: str, sizes: Mapping[str, int]) -> int:
    """The value of ``expression``, e.g. ``evaluate("4 * hidden_size", {"hidden_size": 8}) == 32``.

    Raises:
        ValueError: It is not integer arithmetic, names an unknown size, or divides by zero.
    """
    return _value(_parse(expression).body, sizes, expression)


@lru_cache(maxsize=1024)
def _names(expression: str) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(_parse(expression)) if isinstance(node, ast.Name))


@lru_cache(maxsize=1024)
def _parse(expression: str) -> ast.Expression:
    if len(expression) > 200:
        raise ValueError("an expression has at most 200 characters")
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} is not an expression over sizes") from error
    for node in ast.walk(tree):
        allowed = (ast.Expression, ast.BinOp, ast.Name, ast.Load, ast.Constant, *_OPERATIONS)
        if not isinstance(node, allowed) or (isinstance(node, ast.Constant) and type(node.value) is not int):
            raise ValueError(f"{expression!r}: only names, integers, + - * // and parentheses are allowed")
    return tree


def _value(node: ast.expr, sizes: Mapping[str, int], expression: str) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            if name not in sizes:
                raise ValueError(f"{expression!r}: no size is named {name!r}")
            return sizes[name]
        case ast.BinOp(left=left, op=sign, right=right):
            a, b = _value(left, sizes, expression), _value(right, sizes, expression)
            if isinstance(sign, ast.FloorDiv) and b == 0:
                raise ValueError(f"{expression!r}: division by zero")
            return _OPERATIONS[type(sign)](a, b)
    raise ValueError(f"{expression!r} is not an expression over sizes")
