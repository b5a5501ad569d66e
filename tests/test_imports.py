"""What the source tree promises of itself: who imports what, what lies where, and what no code may do."""

import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import token
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHELVES = [ROOT / "backends", ROOT / "converters"]
LIBRARY = [ROOT / "ligo_spec", *SHELVES]
FRAMEWORKS = ["jax", "onnx", "tokenizers", "torch", "transformers"]
LAZY = [*FRAMEWORKS, "datasets", "huggingface_hub", "matplotlib", "pyarrow"]


# --- the library imports no framework --------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib, json, pkgutil, sys

package, frameworks, path = json.loads(sys.argv[1])
sys.path[:0] = path
root = importlib.import_module(package)
names = [module.name for module in pkgutil.walk_packages(root.__path__, package + ".", onerror=print)]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, [name for name in frameworks if name in sys.modules]]))
"""


def import_all(package: str, *path: Path) -> tuple[list[str], list[str]]:
    """Import a package and all its modules in a Python of its own.

    Returns:
        The modules below the package, and those of ``LAZY`` that were loaded by importing them.
    """
    folders = [str(folder) for folder in (*path, ROOT, *SHELVES)]
    arguments = json.dumps([package, LAZY, folders])
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names, loaded = json.loads(done.stdout.splitlines()[-1])
    return names, loaded


def test_no_module_of_the_library_loads_a_framework() -> None:
    names, loaded = import_all("ligo_spec")
    assert loaded == []
    on_disk = {path for path in (ROOT / "ligo_spec").rglob("*.py") if path.name != "__init__.py"}
    assert len(names) >= len(on_disk) > 10, "the walk missed modules"


def test_the_import_check_catches_a_framework_in_a_nested_module(tmp_path: Path) -> None:
    for name in ("jax", "innocent", "innocent/inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "innocent/inner/deep.py").write_text("def late():\n    import onnx\n\nimport jax\n")
    names, loaded = import_all("innocent", tmp_path)
    assert names == ["innocent.inner", "innocent.inner.deep"]
    assert loaded == ["jax"]


def test_the_import_check_catches_the_torch_backend() -> None:
    if importlib.util.find_spec("torch") is None and not os.environ.get("CI"):
        pytest.skip("torch is not installed")
    assert "torch" in import_all("ligo_torch")[1]


# --- what lies where -------------------------------------------------------------------------------------------------


def pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package_folders(shelf: Path) -> list[Path]:
    return sorted(path for path in shelf.iterdir() if path.is_dir() and path.name != "__pycache__")


def python_files(*folders: Path) -> list[Path]:
    """The Python files in the folders; the folders exist and hold some."""
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    assert files, f"no Python files in {folders}"
    return files


@pytest.mark.parametrize("shelf", SHELVES, ids=lambda shelf: shelf.name)
def test_a_shelf_is_no_package_and_hides_no_framework(shelf: Path) -> None:
    """With a shelf on the path, a folder in it called torch would be what `import torch` finds."""
    assert not list(shelf.glob("*.py*"))
    names = [folder.name for folder in package_folders(shelf)]
    assert names
    assert all(re.fullmatch("ligo_[a-z0-9_]+", name) for name in names), names
    assert not set(names) & set(FRAMEWORKS)


def test_every_package_is_in_the_wheel_and_says_that_it_is_typed() -> None:
    config = pyproject()
    listed = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    folders = [ROOT / "ligo_spec", *(folder for shelf in SHELVES for folder in package_folders(shelf))]
    assert sorted(listed) == sorted(folder.relative_to(ROOT).as_posix() for folder in folders)
    for folder in folders:
        assert (folder / "__init__.py").is_file(), folder
        assert (folder / "py.typed").is_file(), folder


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    names = {path.name for folder in folders for path in folder.rglob("*.py")}
    assert "test_imports.py" in names
    assert not names & {f"{prefix}{stem}.py" for stem in ("utils", "util", "common", "helpers") for prefix in ("", "_")}


def test_the_hook_and_the_pins_have_one_ruff() -> None:
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hook = re.search(r"ruff-pre-commit\s+rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert pinned is not None
    assert hook is not None
    assert hook[1] == pinned[1]


# --- what no code of the library may do ------------------------------------------------------------------------------

# Files come from strangers: none may run code when read, and none is mapped, as a file that is cut short under a map
# kills the process.
FORBIDDEN = {
    r"\b(?:c?pickle|cloudpickle|dill|joblib|marshal|shelve)\b": "import pickle",
    r"\ballow_pickle\s*=\s*True\b": "numpy.load(path, allow_pickle = True)",
    r"\bweights_only\s*=\s*False\b": "torch.load(path, weights_only=False)",
    r"\btrust_remote_code\s*=\s*True\b": "AutoModel.from_pretrained(name, trust_remote_code=True)",
    r"\badd_safe_globals\b": "torch.serialization.add_safe_globals([Thing])",
    r"\byaml\.(?:unsafe_|full_)?load(?:_all)?\s*\(": "yaml.load(text)",
    r"\b(?:Unsafe|Full)Loader\b|['\"]unsafe['\"]": 'YAML(typ="unsafe")',
    r"\bmmap\b|\bmmap_mode\b|\bmemmap\b": "np.memmap(path)",
}


def code_only(source: str) -> str:
    """The source with comments and docstrings blanked out, every other character at its place."""
    lines = [list(line) for line in io.StringIO(source)]
    for start, end in spans_of_prose(source):
        for row in range(start[0], end[0] + 1):
            line = lines[row - 1]
            first = start[1] if row == start[0] else 0
            last = end[1] if row == end[0] else len(line)
            line[first:last] = [c if c == "\n" else " " for c in line[first:last]]
    return "".join("".join(line) for line in lines)


def spans_of_prose(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end, as (row, column), of every comment and of every string that stands alone as a statement."""
    alone = {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for item in tokenize.generate_tokens(io.StringIO(source).readline):
        starts_line = not item.line[: item.start[1]].strip()
        if item.type == token.COMMENT or (item.type == token.STRING and item.start[0] in alone and starts_line):
            yield item.start, item.end


def forbidden_in(source: str) -> list[str]:
    code = code_only(source)
    return [
        f"{code.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for pattern in FORBIDDEN
        for match in re.finditer(pattern, code)
    ]


def test_no_code_of_the_library_trusts_a_file() -> None:
    found = {path: forbidden_in(path.read_text(encoding="utf-8")) for path in python_files(*LIBRARY)}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("planted", FORBIDDEN.values())
def test_the_search_finds_what_is_planted(planted: str, tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text(f'"""No {planted} here."""\n\n\ndef read(path):  # never {planted}\n    """Nor {planted}."""\n')
    assert forbidden_in(file.read_text()) == []
    file.write_text(f"{file.read_text()}    {planted}\n")
    assert forbidden_in(file.read_text())
    assert all(line.startswith("6: ") for line in forbidden_in(file.read_text()))


# --- families are data -----------------------------------------------------------------------------------------------

# Growth methods whose published names hold the name of a family.
METHODS = ["bert2bert", "llama_pro", "stackbert"]


def families() -> list[str]:
    names = sorted(path.stem for path in (ROOT / "ligo_spec/families").glob("*.yaml"))
    assert names
    return names


def words(text: str) -> list[str]:
    """The lower-case words of a name or a text: ``GPT2Model_x`` has gpt, 2, model and x."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)]


def families_named_in(source: str, names: list[str]) -> list[str]:
    """The families that an identifier or a string of the source names, each with its line."""
    methods = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(METHODS)})(?![a-z0-9])", re.IGNORECASE)
    wanted = {name: words(name) for name in names}
    kinds = {token.NAME, token.STRING, getattr(token, "FSTRING_MIDDLE", token.STRING)}
    found = []
    for item in tokenize.generate_tokens(io.StringIO(code_only(source)).readline):
        if item.type not in kinds:
            continue
        said = words(methods.sub(" ", item.string))
        for name, parts in wanted.items():
            if any(said[i : i + len(parts)] == parts for i in range(len(said))):
                found.append(f"{item.start[0]}: {name}")
    return found


def test_no_code_names_a_family() -> None:
    names = families()
    found = {path: families_named_in(path.read_text(encoding="utf-8"), names) for path in python_files(*LIBRARY)}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "if model_type == 'gpt2': pass",
        "is_gpt2 = True",
        "class GPT2Layout: pass",
        "message = f'{1} is no gpt2 model'",
        "path = 'families/gpt2.yaml'",
        "x = [\n    'gpt2',\n]",
    ],
)
def test_a_family_named_in_code_is_found(planted: str) -> None:
    source = f'"""As in gpt2."""\n\n# gpt2 has it too\n{planted}\n'
    assert [line.split(": ")[1] for line in families_named_in(source, ["bert", "gpt2"])] == ["gpt2"]


@pytest.mark.parametrize("innocent", ["preset = 'stackbert'", "option = adopt('bert2bert')", "albert = 'roberta'"])
def test_other_words_are_no_families(innocent: str) -> None:
    assert families_named_in(innocent, ["bert", "opt"]) == []
