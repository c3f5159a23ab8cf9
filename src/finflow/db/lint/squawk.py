"""squawk, run once over all files, as a process of its own; its findings in our words."""

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from finflow.db.lint.rules import ERROR, NOTE, SQUAWK_IN_CONTRACT, SQUAWK_LEVELS, Finding
from finflow.kernel.errors import FinFlowError

TIMEOUT_S: Final = 120
# So many paths fit into one command line on every system that we know.
_AT_ONCE: Final = 1000
# Our own rules say these more exactly, with the phase or the place in mind.
_OURS_SAY_IT: Final = frozenset(("syntax-error",))


class _Row(msgspec.Struct, frozen=True):
    """One finding as squawk prints it; lines and columns from zero."""

    file: str
    line: int
    column: int
    message: str
    rule_name: str
    help: str | None = None


def _binary() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "squawk"
    found = str(beside) if beside.is_file() else shutil.which("squawk")
    if found is None:
        raise FinFlowError("extra_missing", "pip install 'finflow[schema]' for squawk")
    return found


def findings(paths: Sequence[Path], in_transaction: bool) -> Iterator[Finding]:
    """What squawk says of these files. Raises extra_missing and linter_failed."""
    binary = _binary()
    flags = ["--assume-in-transaction"] if in_transaction else []
    for first in range(0, len(paths), _AT_ONCE):
        names = [str(path) for path in paths[first : first + _AT_ONCE]]
        yield from (_finding(row) for row in _rows([binary, "--reporter", "json", *flags, "--", *names]))


def _rows(command: list[str]) -> list[_Row]:
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 - the linter's own binary, with paths behind --
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FinFlowError("linter_failed", f"squawk: {error}") from error
    try:
        rows: list[Any] = msgspec.json.decode(done.stdout, type=list[_Row])
    except msgspec.DecodeError as error:
        words = done.stderr.decode(errors="replace").strip()[:500]
        raise FinFlowError("linter_failed", f"squawk: {words or error}") from error
    return [row for row in rows if row.rule_name not in _OURS_SAY_IT]


def _finding(row: _Row) -> Finding:
    level = SQUAWK_LEVELS.get(row.rule_name, ERROR)
    if row.rule_name in SQUAWK_IN_CONTRACT and row.file.endswith(".contract.sql"):
        level = NOTE
    return Finding(row.file, row.line + 1, row.column + 1, row.rule_name, level, row.message, row.help or "")
