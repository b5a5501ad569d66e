"""Check a built wheel: what it holds, and that it works where only the core dependencies are installed.

``python .ci/check_wheel.py dist/ligo_spec-*.whl``, run by a Python that has the project installed with every extra.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"ligo_spec", "ligo_safetensors", "ligo_pytorch", "ligo_flax", "ligo_onnx", "ligo_torch"}
FRAMEWORKS = ("torch", "jax", "onnx", "transformers", "tokenizers", "datasets")

# Runs in the second environment, outside the checkout.
PROBE = f"""
import importlib.metadata, importlib.util, sys

present = [name for name in {FRAMEWORKS!r} if importlib.util.find_spec(name)]
assert not present, f"the clean environment has {{present}}: the core dependencies bring in a framework"

import ligo_spec

assert "site-packages" in ligo_spec.__file__, ligo_spec.__file__
for name in getattr(ligo_spec, "__all__", ()):
    getattr(ligo_spec, name)

points = {{(p.group, p.name): p for p in importlib.metadata.distribution("ligo-spec").entry_points}}
for key in [
    ("console_scripts", "ligo"),
    ("ligo_spec.converters", "safetensors"),
    ("ligo_spec.backends", "numpy"),
]:
    points[key].load()
    print("  loads without torch:", *key)
try:
    points["ligo_spec.backends", "torch"].load()
except ModuleNotFoundError as error:
    assert error.name == "torch", error
else:
    raise AssertionError("the torch backend loads without torch")
"""


def check_contents(wheel: Path) -> None:
    """The wheel holds our packages, whole, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    top_level = {PurePosixPath(name).parts[0] for name in held}
    metadata = {name for name in top_level if name.endswith(".dist-info")}
    require(len(metadata) == 1, f"one .dist-info folder expected, found {sorted(metadata)}")
    found = top_level - metadata
    require(found == TOP_LEVEL, f"top-level names {sorted(found)} are not {sorted(TOP_LEVEL)}")

    wanted = {f"{path.name}/{name}" for path in package_folders() for name in files_below(path)}
    have = {name for name in held if PurePosixPath(name).parts[0] in TOP_LEVEL}
    require(have == wanted, f"missing {sorted(wanted - have)}, not of the tree {sorted(have - wanted)}")
    require(any(name.endswith("licenses/LICENSE") for name in held), "the licence is missing")
    print(f"  {len(have)} files of {', '.join(sorted(found))}")


def package_folders() -> list[Path]:
    """The folders that pyproject.toml puts into the wheel."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [ROOT / name for name in config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


def files_below(folder: Path) -> set[str]:
    """The files of a package, relative to it, without what Python compiled."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}


def check_entry_points() -> None:
    """Every entry point of the project loads where every extra is installed."""
    points = importlib.metadata.distribution("ligo-spec").entry_points
    require(len(points) > 0, "the project has no entry points here")
    for point in points:
        point.load()
    print(f"  all {len(points)} entry points load with every extra")


def check_installed(wheel: Path) -> None:
    """The wheel works in an environment of its own that has only the core dependencies."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "venv")
        venv.create(environment, with_pip=True)
        scripts = environment / ("Scripts" if os.name == "nt" else "bin")
        python = str(scripts / "python")
        pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        run([*pip, "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel.resolve())], folder)
        run([*pip, "check"], folder)
        run([python, "-I", "-c", PROBE], folder)
        shown = run([str(scripts / "ligo"), "--help"], folder)
        require("Usage" in shown, f"ligo --help shows no usage:\n{shown}")
        print("  ligo --help runs without torch")


def run(command: list[str], folder: str) -> str:
    """Run in `folder`, pass on what it prints, stop the check when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(f"exit {done.returncode} from {' '.join(command[:6])}")
    if command[-1] == PROBE:
        print(done.stdout, end="")
    return done.stdout


def require(condition: bool, message: str) -> None:
    """Stop the check with `message` unless `condition` holds."""
    if not condition:
        sys.exit(message)


def main(arguments: list[str]) -> None:
    """Check the one wheel that the command line names."""
    require(len(arguments) == 1, f"one wheel expected, got {arguments}")
    wheel = Path(arguments[0])
    print(wheel.name)
    check_contents(wheel)
    check_entry_points()
    check_installed(wheel)


if __name__ == "__main__":
    main(sys.argv[1:])
