"""The command ``ligo``: parse, call one function, print, exit code. Everything here is callable from Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn, Optional

import typer

import ligo_spec
from ligo_spec import display, display_compare
from ligo_spec.errors import LigoError, Problem, printable
from ligo_spec.family_list import markdown as family_markdown
from ligo_spec.formats import FormatName
from ligo_spec.plan import DtypeName

app = typer.Typer(
    name="ligo",
    help="Grow a trained transformer into a bigger one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="A growth plan (YAML).")]
SourceOption = Annotated[Optional[str], typer.Option("--source", help="The small model, instead of the plan's.")]  # noqa: UP045
OutputOption = Annotated[Optional[Path], typer.Option("--output", help="Where to write, instead of the plan's.")]  # noqa: UP045
DataOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--data", help="Text to fit on, instead of the plan's (a file or pattern; may be repeated)."),
]
OperatorOption = Annotated[Optional[Path], typer.Option("--operator", help="An operator file to start from.")]  # noqa: UP045
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
BackendOption = Annotated[str, typer.Option("--backend", help="What applies the operator (numpy, torch, ...).")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ligo-spec {metadata.version('ligo-spec')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow a trained transformer into a bigger one."""


@app.command()
def check(plans: Annotated[list[Path], typer.Argument(metavar="PLAN...")], source: SourceOption = None) -> None:
    """Check plans: form, sizes, rules. Reads no weight, writes nothing."""
    for plan in plans:
        ligo_spec.check(plan, source=source)
        typer.echo(f"{printable(plan)}: ok")


@app.command()
def explain(
    plan: PlanPath, source: SourceOption = None, operator: OperatorOption = None, as_json: JsonOption = False
) -> None:
    """The dry run: what each tensor becomes, parameters, bytes, certificate."""
    found = ligo_spec.explain(plan, source=source, operator=operator)
    _print(found, as_json, display.explanation)


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint (directory, file or hf://owner/name).")],
    family: Annotated[Optional[str], typer.Option("--family", help="A family's name or file.")] = None,  # noqa: UP045
    spaces: Annotated[bool, typer.Option("--spaces", help="Show what touches which space.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What a checkpoint is: family, sizes, every tensor."""
    found = ligo_spec.inspect(source, family=family)
    _print(found, as_json, display.spaces if spaces else display.inspection)


families = typer.Typer(
    help="Families of architectures: what is shipped, and how to check one's own.", no_args_is_help=True
)
app.add_typer(families, name="family")


@families.command("list")
def list_families(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the README.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The shipped families: what can grow, and which methods keep the function exactly."""
    found = ligo_spec.list_families()
    if markdown:
        typer.echo(family_markdown(found))
    else:
        _print(found, as_json, display.families)


@families.command("check")
def check_family(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="A family file, or a shipped family's name.")],
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint that it should describe.")],
    as_json: JsonOption = False,
) -> None:
    """Hold a family against a checkpoint, tensor by tensor; ends in a round trip."""
    found = ligo_spec.check_family(family, source)
    _print(found, as_json, display.family_check)
    if found.problems:
        raise ligo_spec.InputError([Problem("", text) for text in found.problems])


@app.command()
def fit(
    plan: PlanPath,
    operator: Annotated[Path, typer.Option("-o", "--operator", help="Where to write the operator.")],
    source: SourceOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn the plan's operator and write it to a file."""
    with display.progress(as_json) as events:
        found = ligo_spec.fit(plan, operator, source=source, data=data or [], events=events)
    _print(found, as_json, display.fit_result)


@app.command()
def apply(
    plan: PlanPath,
    operator: OperatorOption = None,
    source: SourceOption = None,
    output: OutputOption = None,
    backend: BackendOption = "numpy",
    as_json: JsonOption = False,
) -> None:
    """Build the operator, or load it, and write the large checkpoint."""
    with display.progress(as_json) as events:
        found = ligo_spec.apply(plan, operator=operator, source=source, output=output, backend=backend, events=events)
    _print(found, as_json, display.grown)


@app.command()
def grow(
    plan: PlanPath,
    source: SourceOption = None,
    output: OutputOption = None,
    data: DataOption = None,
    backend: BackendOption = "numpy",
    as_json: JsonOption = False,
) -> None:
    """Fit if the plan says so, apply, verify."""
    with display.progress(as_json) as events:
        found = ligo_spec.grow(plan, source=source, output=output, data=data or [], backend=backend, events=events)
    _print(found, as_json, display.grown)


@app.command()
def compare(
    plan: PlanPath,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="A directory to make: all that was measured, the winner's plan, a plot."),
    ] = None,
    source: SourceOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train several starts for the same FLOPs and rank them: which way to grow suits this model and data."""
    with display.progress(as_json) as events:
        found = ligo_spec.compare(plan, output, source=source, data=data or [], events=events)
    _print(found, as_json, display_compare.comparison)


@app.command()
def verify(
    small: Annotated[str, typer.Argument(metavar="SMALL")],
    large: Annotated[str, typer.Argument(metavar="LARGE")],
    data: DataOption = None,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    lossless: Annotated[bool, typer.Option("--lossless", help="Fail (exit 6) where the outputs differ.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare forward passes of two checkpoints through Transformers."""
    found = ligo_spec.verify(small, large, data=data or [], seed=seed)
    _print(found, as_json, display.verification)
    problems = list(found.problems(lossless=lossless))
    if problems:
        raise ligo_spec.VerificationError(problems)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint (directory, file or hf://owner/name).")],
    output: Annotated[Path, typer.Argument(metavar="DST", help="The directory to make.")],
    to: Annotated[FormatName, typer.Option("--to", help="The format to write.")],
    family: Annotated[Optional[str], typer.Option("--family", help="A family's name or file.")] = None,  # noqa: UP045
    dtype: Annotated[DtypeName, typer.Option(help="Of the floating-point tensors.")] = "keep",
    max_shard_size: Annotated[str, typer.Option(help="Bytes of tensors in one file, e.g. 5GB.")] = "5GB",
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in another format: safetensors, PyTorch, ONNX or Flax."""
    with display.progress(as_json) as events:
        found = ligo_spec.convert(
            source, output, to, family=family, dtype=dtype, max_shard_size=max_shard_size, events=events
        )
    _print(found, as_json, display.converted)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint (directory, file or hf://owner/name).")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one, of the same format or not.")],
    family: Annotated[Optional[str], typer.Option("--family", help="The family of both: a name or a file.")] = None,  # noqa: UP045
    exact: Annotated[bool, typer.Option("--exact", help="Fail (exit 6) where anything differs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints, tensor by tensor: same, renamed, transposed, or different by how much."""
    found = ligo_spec.diff(a, b, family=family)
    _print(found, as_json, display.difference)
    problems = list(found.problems()) if exact else []
    if problems:
        raise ligo_spec.VerificationError(problems)


@app.command()
def schema(name: Annotated[Literal["plan", "family", "operator"], typer.Argument(help="Which document.")]) -> None:
    """Print a document's JSON Schema."""
    typer.echo(json.dumps(ligo_spec.json_schema(name), indent=2))


def main() -> NoReturn:
    """Run the command and exit with its code; a refusal is one line a problem, never a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command; the exit code (0 done, 2 usage, 3 input, 4 output, 5 numbers, 6 verification, 70 bug)."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == 130:  # some versions of the library take the interrupt themselves, and say nothing
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except LigoError as error:
        for line in str(error).split("\n"):
            _say(f"error: {printable(line, 10_000)}")  # paths are the user's, but their names may be a stranger's
        return error.exit_code
    except (BrokenPipeError, SystemExit):  # the libraries that print turn the one into the other
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; nothing is wrong
        return 0
    except (KeyboardInterrupt, typer.Abort):
        _say("error: interrupted")
        return 130
    except _Terminated:
        _say("error: terminated")
        return 143
    except Exception as error:
        return _usage_or_bug(error)


class _Terminated(BaseException):
    """SIGTERM came: unwind as for an interrupt, so that nothing half-written stays."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _usage_or_bug(error: Exception) -> int:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of the command-line library
        help_only = type(error).__name__ == "NoArgsIsHelpError"
        _say(error.format_message() if help_only else f"error: {error.format_message()}")
        return 2
    _say(f"error: this is a bug in ligo-spec: {type(error).__name__}: {printable(error)}")
    traceback.print_exc() if os.environ.get("LIGO_DEBUG") else _say("set LIGO_DEBUG=1 to see where it happened")
    return 70


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print(found: Any, as_json: bool, show: Any) -> None:
    if as_json:
        typer.echo(json.dumps(display.as_data(found), indent=2, sort_keys=True))
    else:
        show(found)


if __name__ == "__main__":
    main()
