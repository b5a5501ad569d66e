"""What the package promises by name: exports, commands, docstrings, and the blocks of the README."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import ligo_spec
from ligo_spec import errors
from ligo_spec.cli import app
from ligo_spec.documents import loads
from ligo_spec.errors import LigoError
from ligo_spec.plan import Plan

ROOT = Path(__file__).parents[1]

COMMANDS = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}

GROUPS = {group.name for group in app.registered_groups}
"""Commands that hold others: ``ligo family list``."""

RENAMED = {"schema": "json_schema"}
"""Commands whose function has another name: ``schema`` alone would say too little in Python."""

PARAMETERS = {"plans": "plan", "operator": "output"}
"""Parameters of commands that Python calls otherwise: ``check`` takes several plans, ``fit -o`` names its output."""

ONLY_COMMAND = {"as_json", "spaces", "lossless", "exact"}
"""Parameters that say how a command prints or ends; a function returns all that they choose from."""

ONLY_FUNCTION = {"events"}
"""Parameters that a command line cannot give, or whose values come with the file that it names."""


# --- exports ----------------------------------------------------------------------------------------------------------


def test_every_export_exists_and_is_documented() -> None:
    """``__all__`` names what is there, each once, each with a docstring of its own."""
    assert len(set(ligo_spec.__all__)) == len(ligo_spec.__all__)
    for name in ligo_spec.__all__:
        exported = getattr(ligo_spec, name)
        assert inspect.isclass(exported) or inspect.isfunction(exported), name
        assert (exported.__doc__ or "").strip(), name
        assert exported.__module__.startswith("ligo_spec."), name


def test_the_exports_are_few() -> None:
    """What is exported is kept for good: about fifty names, no more."""
    assert len(ligo_spec.__all__) <= 50


def test_a_star_import_gives_the_exports() -> None:
    """``from ligo_spec import *`` works, and brings nothing else."""
    names: dict[str, Any] = {}
    exec("from ligo_spec import *", names)
    assert names.keys() - {"__builtins__"} == set(ligo_spec.__all__)


def test_all_imports_of_the_package_are_exported() -> None:
    """What ``__init__`` imports is in ``__all__``: nothing is half public."""
    tree = ast.parse((ROOT / "ligo_spec" / "__init__.py").read_text("utf-8"))
    imported = {
        name.asname or name.name for node in tree.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert imported == set(ligo_spec.__all__)


def test_every_error_is_exported() -> None:
    """All subclasses of the root can be caught by their public names, and each has an exit code of its own."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LigoError)]
    assert {kind.__name__ for kind in kinds} <= set(ligo_spec.__all__)
    assert sorted(kind.exit_code for kind in kinds) == [2, 3, 4, 5, 6, 70]


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_a_function(command: str) -> None:
    """Same name, same parameters, same defaults, but for how a command prints."""
    function = getattr(ligo_spec, RENAMED.get(command, command))
    assert function.__name__ in ligo_spec.__all__
    asked = inspect.signature(COMMANDS[command]).parameters
    taken = inspect.signature(function).parameters
    renamed = PARAMETERS if command in ("check", "fit") else {}
    names = {renamed.get(name, name) for name in asked if name not in ONLY_COMMAND}
    only_function = ONLY_FUNCTION | ({"family"} if command == "verify" else set())
    assert names == taken.keys() - only_function
    for name, parameter in asked.items():
        if name in ONLY_COMMAND:
            continue
        default = taken[renamed.get(name, name)].default
        assert parameter.default == (default if default != () else None), name


def test_the_list_of_exceptions_is_needed() -> None:
    """The twin of the test above: every exception that it makes is one that some command has."""
    asked = {name for callback in COMMANDS.values() for name in inspect.signature(callback).parameters}
    assert PARAMETERS.keys() | ONLY_COMMAND <= asked
    assert RENAMED.keys() <= COMMANDS.keys()


# --- docstrings -------------------------------------------------------------------------------------------------------

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SOURCES = sorted(
    path
    for folder in ("ligo_spec", "backends", "converters")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Every function, class and method of a module, by its dotted name; not those inside functions."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")


def public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    """Modules, classes, functions and methods; all but those of names that begin with an underscore."""
    module = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(module)
    for name, node in definitions(module.body):
        if public(name) and not path.name.startswith("_file"):
            assert ast.get_docstring(node), name


PYTHONS_OWN = {"AssertionError", "KeyError", "ValueError"}
"""Errors of Python that are part of a contract: of a failed suite, of a mapping, of a parser inside the package."""


def raised(docstring: str) -> list[str]:
    """The names in a docstring's ``Raises:`` section."""
    section = re.search(r"^Raises:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if not section:
        return []
    indent = re.match(r"[ \t]+", section[1])
    assert indent
    return re.findall(rf"^{indent[0]}(\S[^:]*):", section[1], re.MULTILINE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_raises_sections_name_errors_that_exist(path: Path) -> None:
    """``Raises:`` names the package's own errors, or one of Python that is part of a contract."""
    for name, node in definitions(ast.parse(path.read_text("utf-8")).body):
        for kind in raised(ast.get_docstring(node) or ""):
            known = getattr(errors, kind, None)
            assert kind in PYTHONS_OWN or (inspect.isclass(known) and issubclass(known, LigoError)), (name, kind)


def test_the_reader_of_raises_sections_reads() -> None:
    """The twin of the test above: names are found, each of them."""
    assert raised("One.\n\nArgs:\n    a: B.\n\nRaises:\n    Foo: If it\n        Bar: is not.\n    Baz: Else.\n") == [
        "Foo",
        "Baz",
    ]
    assert raised("One.\n\nArgs:\n    a: Raises: nothing.\n") == []


# --- the README -------------------------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_commands_of_the_readme_exist() -> None:
    """Every ``ligo WORD`` in code is a command; every command is in the README."""
    listed = re.findall(r"^    ligo (\w+)", README, re.MULTILINE)
    assert set(listed) == COMMANDS.keys() | GROUPS
    used = re.findall(r"`ligo (\w+)|^\$ ligo (\w+)", README, re.MULTILINE)
    assert used
    assert {first or second for first, second in used} <= COMMANDS.keys() | GROUPS


def test_options_of_the_readme_exist() -> None:
    """Every ``--option`` in the README is one of some command."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    children = [*command.commands.values()]
    children += [below for child in children if isinstance(child, TyperGroup) for below in child.commands.values()]
    options = {text for child in children for parameter in child.params for text in parameter.opts}
    mentioned = set(re.findall(r"(?<=[ `])--[a-z-]+", README))
    assert mentioned
    assert mentioned <= options


def test_functions_of_the_readme_exist() -> None:
    """Every ``ligo_spec.name(`` is an export."""
    used = re.findall(r"ligo_spec\.(\w+)\(", README)
    assert used
    assert set(used) <= set(ligo_spec.__all__)


def test_plans_of_the_readme_load() -> None:
    """Every YAML block that is a plan is read by the loader without a complaint."""
    plans = [block for block in blocks("yaml") if "ligo/plan/1" in block]
    assert plans
    for block in plans:
        assert loads(block, Plan, name="README.md").spec == "ligo/plan/1"


def test_python_of_the_readme_parses() -> None:
    """Every Python block, if there is one, is Python; YAML blocks are the ones that are there now."""
    for block in blocks("python"):
        ast.parse(block)
    assert blocks("yaml")


def test_links_of_the_readme_lead_somewhere() -> None:
    """Every link to a file of the repository leads to one."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
