"""The style as tests: how long functions and files are, what a model may import, what the house may name."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "src" / "finflow"
_FILES = sorted(_SOURCE.rglob("*.py"))
_IDS = [str(path.relative_to(_SOURCE)) for path in _FILES]
_FUNCTION_MEDIAN, _FUNCTION_MAX, _FILE_MAX, _README_MAX = 10, 70, 400, 120

# What a file that decides may not import: whatever reads, writes, waits, dices or looks at the clock.
_IMPURE = {
    "aiohttp", "asyncio", "asyncpg", "concurrent", "ctypes", "glob", "granian", "http", "io", "litestar",
    "logging", "multiprocessing", "os", "pathlib", "platform", "random", "requests", "secrets", "select",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib.request", "uuid", "uvloop",
}  # fmt: skip
# A generator made from a seed is a function of the seed; the module's own functions are not.
_PURE_PARTS = {"random": {"Random"}}
_IMPURE_ROOMS = ("finflow.db", "finflow.stack", "finflow.telemetry", "finflow.api", "finflow.client")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _functions(path: Path) -> list[tuple[str, int]]:
    """Name and length in lines of every function, decorators and docstring left out."""
    found = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            last = body[-1].end_lineno if body else node.lineno
            first = body[0].lineno if body else node.lineno
            found.append((f"{path.relative_to(_ROOT)}:{node.lineno} {node.name}", (last or 0) - first + 2))
    return found


def test_functions_are_short() -> None:
    functions = [each for path in _FILES for each in _functions(path)]
    assert [each for each in functions if each[1] > _FUNCTION_MAX] == []
    assert statistics.median(length for _, length in functions) < _FUNCTION_MEDIAN


@pytest.mark.parametrize("path", _FILES, ids=_IDS)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < _FILE_MAX


def _imports(path: Path) -> set[str]:
    """Every imported name; of a module with pure parts, the parts that are used."""
    found = set()
    nodes = list(ast.walk(_tree(path)))
    used = {
        (node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = {attribute for name, attribute in used if name == alias.name}
                if not parts or parts - _PURE_PARTS.get(alias.name, set()):
                    found.add(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _acts(name: str) -> bool:
    """Whether an imported name does more than compute; the model of any room only computes."""
    if any(_within(name, f"{room}.model") for room in _IMPURE_ROOMS):
        return False
    return any(_within(name, package) for package in (*_IMPURE, *_IMPURE_ROOMS))


@pytest.mark.parametrize(
    "path", [path for path in _FILES if path.name == "model.py"], ids=lambda path: path.parent.name
)
def test_models_import_nothing_that_acts(path: Path) -> None:
    assert sorted(name for name in _imports(path) if _acts(name)) == []


@pytest.mark.parametrize("path", _FILES, ids=_IDS)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "a file begins with a docstring"


@pytest.mark.parametrize("path", _FILES, ids=_IDS)
def test_every_exemption_carries_its_reason(path: Path) -> None:
    bare = re.compile(
        r"# noqa(?!: [A-Z0-9]+(, ?[A-Z0-9]+)* +(-|--|—|#) \S)|# type: ignore(?!\[[a-z\-, ]+\] +(-|--|—|#) \S)"
    )
    lines = path.read_text().splitlines()
    assert [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if bare.search(line)] == []


def test_nothing_is_left_undone() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    assert [f"{path}" for path in _FILES if marks.search(path.read_text())] == []


def test_rooms_import_only_downward() -> None:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as c; c()",
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    paths = [_ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def test_the_repository_names_no_machine() -> None:
    machine = re.compile(
        rb"/(work|farm)/|/(root|home)/(?!somebody)[\w.]+/|/opt/wheels|--index-url|extra-index-url"
    )
    # `make lock` names the option that keeps such things out.
    found = [
        path for path in _tracked() if machine.search(path.read_bytes().replace(b"--no-emit-index-url", b""))
    ]
    assert [str(path.relative_to(_ROOT)) for path in found] == []
