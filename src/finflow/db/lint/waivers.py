"""Waivers: a rule that a person allows to be broken at one place, with the reason.

`-- finflow: allow RULE because REASON` above a statement, or on its line, is for that statement. Whole files
that were released before they could be mended are accepted by `lint-baseline.toml` beside them, as long as
their bytes are the same.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from finflow.db.lint.rules import RULES, Finding
from finflow.db.sql_text import place, statements
from finflow.kernel.errors import FinFlowError

BASELINE: Final = "lint-baseline.toml"
_WAIVER: Final = re.compile(r"--[ \t]*finflow:[ \t]*allow\b(?P<rest>[^\n]*)")
_GRAMMAR: Final = re.compile(
    r"\s+(?P<rules>[a-z][a-z-]*(?:\s*,\s*[a-z][a-z-]*)*)\s+because\s+(?P<reason>\S.{9,})", re.DOTALL
)


class Waiver(msgspec.Struct, frozen=True):
    """What one comment allows: these rules, on these lines, for this reason."""

    line: int
    rules: tuple[str, ...]
    reason: str
    first_line: int
    last_line: int

    def covers(self, finding: Finding) -> bool:
        """Whether it is meant for a finding of its file."""
        return finding.rule in self.rules and self.first_line <= finding.line <= self.last_line


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the baseline."""

    file: str
    sha256: str
    because: str


class _Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accepted: list[Accepted] = []


def read(text: str) -> tuple[list[Waiver], list[int]]:
    """The waivers of a file, and the offsets of those that cannot be read."""
    spans = _spans(text)
    found, malformed = [], []
    for match in _WAIVER.finditer(text):
        grammar = _GRAMMAR.match(match["rest"].rstrip())
        if grammar is None:
            malformed.append(match.start())
            continue
        line, _ = place(text, match.start())
        rules = tuple(part.strip() for part in grammar["rules"].split(","))
        found.append(Waiver(line, rules, grammar["reason"].strip(), *_meant(line, spans)))
    return found, malformed


def _spans(text: str) -> list[tuple[int, int]]:
    """First and last line of every statement."""
    return [
        (place(text, each.offset)[0], place(text, each.offset + len(each.text))[0])
        for each in statements(text)
    ]


def _meant(line: int, spans: list[tuple[int, int]]) -> tuple[int, int]:
    """The lines of the statement that a comment on this line is for; above the first, the file's head too."""
    for number, (first, last) in enumerate(spans):
        if line <= last:
            return (1 if number == 0 else min(line, first)), last
    return line, line


def applied(findings: list[Finding], waivers: list[Waiver], file: str) -> Iterator[Finding]:
    """The findings of a file, those that are allowed with the reason; and waivers that allow nothing."""
    used: set[int] = set()
    for finding in findings:
        waiver = next((each for each in waivers if each.covers(finding)), None)
        if waiver is not None:
            used.add(waiver.line)
            finding = msgspec.structs.replace(finding, because=waiver.reason)
        yield finding
    rule = RULES["waiver-unused"]
    for waiver in waivers:
        if waiver.line not in used:
            words = f"{', '.join(waiver.rules)}: {rule.reason}"
            yield Finding(file, waiver.line, 1, rule.id, rule.level, words, rule.remedy)


def baseline(folder: Path) -> dict[str, Accepted]:
    """The accepted files of a folder, by name. Raises file_unreadable."""
    path = folder / BASELINE
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text())
        found = msgspec.convert(table, _Baseline).accepted
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}") from error
    return {each.file: each for each in found}


def is_accepted(accepted: Accepted | None, content: bytes) -> bool:
    """Whether the file is still the one that was accepted."""
    return accepted is not None and accepted.sha256 == hashlib.sha256(content).hexdigest()
