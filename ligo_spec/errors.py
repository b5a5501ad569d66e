"""One root, few children; each carries every problem found and the exit code of the command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

MAX_SHOWN = 20
"""How many problems a message prints; the count of the rest follows."""


def printable(value: object, limit: int = 120) -> str:
    """Text from a file, safe for a terminal: non-printables escaped, cut to ``limit`` characters."""
    text = str(value)
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what it says (found, wanted, remedy)."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class LigoError(Exception):
    """The root of all errors that the package raises on purpose.

    Args:
        problems: One message, one problem, or all the problems that were found.
    """

    exit_code: ClassVar[int] = 70
    problems: tuple[Problem, ...]

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"... and {len(self.problems) - MAX_SHOWN} more")
        return "\n".join(lines)


class PlanError(LigoError, ValueError):
    """A plan, a family file or the usage is wrong."""

    exit_code = 2


class InputError(LigoError, ValueError):
    """A checkpoint, an operator or a data file was refused."""

    exit_code = 3


class OutputError(LigoError, OSError):
    """The output exists, is locked, does not fit, or cannot be written."""

    exit_code = 4


class NumericalError(LigoError, ArithmeticError):
    """A value is not finite, or a fit diverged."""

    exit_code = 5


class VerificationError(LigoError):
    """A check of the result failed."""

    exit_code = 6
