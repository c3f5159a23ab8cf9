"""The catalogue of errors is complete: every code used is in it, every code in it is used and documented."""

import ast
import re
from pathlib import Path

import pytest

from finflow.kernel.errors import CATALOGUE

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "src" / "finflow"
_CATALOGUE_FILE = _SOURCE / "kernel" / "errors.py"
_DOCUMENT = _ROOT / "docs" / "reference" / "errors.md"


def _sources() -> list[Path]:
    return [path for path in _SOURCE.rglob("*.py") if path != _CATALOGUE_FILE]


def _strings(path: Path) -> set[str]:
    """Every string constant of a file but its docstrings' words."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _raised(path: Path) -> set[str]:
    """The codes in FinFlowError("code", ...), also in FinFlowError("a" if ... else "b", ...)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        called = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(called, ast.Name)
            and called.id == "FinFlowError"
            and isinstance(node, ast.Call)
            and node.args
        ):
            code = node.args[0]
            choices = (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,)
            found |= {each.value for each in choices if isinstance(each, ast.Constant)}
    return found


def test_codes_are_unique_words_with_sentences() -> None:
    rows = re.findall(r'^    Kind\("(\w+)"', _CATALOGUE_FILE.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows)) == len(CATALOGUE)
    for kind in CATALOGUE.values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
        assert kind.title.endswith("."), kind.code
        assert kind.hint.endswith("."), kind.code
        assert 400 <= kind.status < 600, kind.code
        assert kind.exit_code in (1, 2, 3, 4), kind.code


def test_every_code_that_is_raised_is_in_the_catalogue() -> None:
    assert {code for path in _sources() for code in _raised(path)} - set(CATALOGUE) == set()


def test_every_code_of_the_catalogue_is_used() -> None:
    # SQL functions refuse with codes too, and a refusal is a plain string where a model returns it.
    used = {text for path in _sources() for text in _strings(path)}
    sql = " ".join(path.read_text() for path in _SOURCE.rglob("*.sql"))
    assert sorted(code for code in CATALOGUE if code not in used and f"'{code}'" not in sql) == []


def test_every_code_is_documented() -> None:
    if not _DOCUMENT.exists():
        pytest.skip("docs/reference/errors.md is not written yet")
    text = _DOCUMENT.read_text()
    assert sorted(code for code in CATALOGUE if not re.search(rf"\b{code}\b", text)) == []
