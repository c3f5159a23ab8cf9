"""SQL as a span may show it: one line, no values, and in a word or two what it does to what. Pure.

Statements of the house are static text with parameters, which show as they stand. Text that carries values
(a migration, a statement of a stranger) has its literals replaced by `?`, as OpenTelemetry's conventions
for `db.query.text` ask.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

MAX_TEXT: Final = 2_000
_MAX_READ: Final = 20_000
_LITERAL: Final = re.compile(
    r"(?P<dollar>\$(?P<tag>[A-Za-z_]*)\$.*?\$(?P=tag)\$)"
    r"|[eEbBxXuU]?&?'(?:[^']|'')*'"
    r"|(?<![\w$.\"])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w\"])",
    re.DOTALL,
)
_QUOTED_OR_COMMENT: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
_SPACE: Final = re.compile(r"\s+")
_WORD: Final = re.compile(r"[A-Za-z_][\w.]*|[()]")
_MAIN: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"})
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_BEFORE_NAME: Final = frozenset({"FROM", "INTO", "UPDATE", "TABLE", "COPY", "JOIN"})
_NO_NAME: Final = frozenset({"SELECT", "LATERAL", "UNNEST", "ONLY", "SET", "IF", "NOT", "EXISTS"})


class Statement(NamedTuple):
    """`text` for db.query.text, `operation` for db.operation.name, `target` the first table named, or ''."""

    text: str
    operation: str
    target: str

    @property
    def summary(self) -> str:
        """A name of low cardinality: `UPDATE heads`."""
        return f"{self.operation} {self.target}".strip()


@lru_cache(maxsize=1024)
def described(sql: str) -> Statement:
    """What a span says of a statement."""
    bare = _QUOTED_OR_COMMENT.sub(_keep_literals, sql[:_MAX_READ])
    text = _SPACE.sub(" ", _LITERAL.sub("?", bare)).strip().rstrip(";")
    if len(sql) > _MAX_READ or len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + " ..."
    operation, target = _verb(text)
    return Statement(text, operation, target)


def _keep_literals(found: re.Match[str]) -> str:
    """Comments go, but what looks like one inside of a literal is part of it."""
    return found[0] if found[0].startswith("'") else " "


def _verb(text: str) -> tuple[str, str]:
    """The main verb, looked for outside of parentheses, and the first table after it."""
    words = [match[0] for match in _WORD.finditer(text)]
    first = words[0].upper() if words else ""
    depth, at = 0, 0
    if first == "WITH" and (written := _first_write(words)) is not None:
        # What a statement writes says more of it than what it answers.
        return words[written].upper(), _target(words[written:], words[written].upper())
    for number, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0 and (first != "WITH" or word.upper() in _MAIN) and word not in "()":
            first, at = word.upper(), number
            break
    return first, _target(words[at:], first)


def _first_write(words: list[str]) -> int | None:
    """Where the first INSERT, UPDATE, DELETE or MERGE stands; FOR UPDATE and DO UPDATE are none."""
    for number, (before, word) in enumerate(pairwise(words), 1):
        if word.upper() in _WRITES and before.upper() not in ("FOR", "DO"):
            return number
    return None


def _target(words: list[str], operation: str) -> str:
    for before, word in pairwise(words):
        if before.upper() in _BEFORE_NAME and word not in "()" and word.upper() not in _NO_NAME:
            return word
    return words[1] if operation in ("COPY", "UPDATE") and len(words) > 1 else ""
