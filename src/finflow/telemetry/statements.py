"""SQL as a span may show it: one line, no values, and in a word or two what it does to what. Pure.

Statements of the house are static text with parameters, which show as they stand. Text that carries values
(a migration, a statement of a stranger) has its literals replaced by `?`, as OpenTelemetry's conventions
for `db.query.text` ask. What is a literal is decided by PostgreSQL's lexical rules (section 4.1 of its
manual). Where those cannot tell, nothing is shown but the operation.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

MAX_TEXT: Final = 2_000
_MAX_READ: Final = 20_000
_MAX_NAME: Final = 255
_START: Final = r"A-Za-z_\x80-\U0010ffff"
_NAME: Final = rf'(?:[{_START}][{_START}0-9$]*+|(?:[uU]&)?"[^"]*(?:""[^"]*)*"(?!"))'
_ESCAPED: Final = r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!')"
# A backslash before a quote ends the literal or does not, as standard_conforming_strings is on or off: that
# is none that can be read. Everywhere else both readings are the same.
_PLAIN: Final = r"'[^'\\]*(?:(?:\\[^']|'')[^'\\]*)*'(?!')"
# Between two pieces of one literal: white space with a line's end in it, and comments to the end of theirs.
_GOES_ON: Final = r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*"
_DIGITS: Final = r"[0-9](?:_?[0-9])*"
_TOKEN: Final = re.compile(
    rf"""(?P<blank>[ \t\n\r\f\v]+|--[^\n\r]*)
      | (?P<comment>/\*)                            # it may hold others: read on by hand
      | (?P<literal>
            [eE]{_ESCAPED}(?:{_GOES_ON}{_ESCAPED})*
          | (?:[bBnNxX]|[uU]&)?{_PLAIN}(?:{_GOES_ON}{_PLAIN})*
          | \$(?P<tag>(?:[{_START}][{_START}0-9]*)?)\$.*?\$(?P=tag)\$
          | (?: 0[xX](?:_?[0-9a-fA-F])+ | 0[oO](?:_?[0-7])+ | 0[bB](?:_?[01])+
              | (?:{_DIGITS}(?:\.(?!\.)(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?
            )(?![{_START}0-9])
        )
      | (?P<name>{_NAME}(?:\.{_NAME}(?!'))*)        # in a.E'x' the E belongs to the literal
      | (?P<parameter>\$[0-9]+)
      | (?P<sign>\.\.|[-+*/<>=~!@\#%^&|`?()\[\],.;:{{}}])""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_SPACE: Final = re.compile(r"\s+")
_SHOWN: Final = {"literal": "?", "blank": " ", "comment": " "}
_MAIN: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"})
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_LOCKS: Final = frozenset({"FOR", "KEY", "DO"})
_BEFORE_NAME: Final = frozenset({"FROM", "INTO", "UPDATE", "TABLE", "COPY", "JOIN"})
_OF_A_QUERY: Final = frozenset({"AS", "NOT", "MATERIALIZED"})
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
    shown: list[str] = []
    words: list[str] = []
    for kind, token in _tokens(sql[:_MAX_READ]):
        if kind is None:
            operation, _ = _verb(words)
            return Statement(operation, operation, "")
        shown.append(_SHOWN.get(kind, token))
        if kind == "name" or token in ("(", ")"):
            words.append(token[:_MAX_NAME])
    text = _SPACE.sub(" ", "".join(shown)).strip().rstrip(";")
    if len(sql) > _MAX_READ or len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + " ..."
    return Statement(text, *_verb(words))


def _tokens(sql: str) -> Iterator[tuple[str | None, str]]:
    """Kind and text of each token. What is none, as a literal without an end, has no kind and is the last."""
    position = 0
    while position < len(sql):
        found = _TOKEN.match(sql, position)
        end = found.end() if found else 0
        if found and found.lastgroup == "comment":
            end = _comment_end(sql, end)
        if not found or not end:
            yield None, ""
            return
        yield found.lastgroup, sql[position:end]
        position = end


def _comment_end(sql: str, position: int) -> int:
    """Where a comment ends that has begun before `position`, comments within it included; 0 if nowhere."""
    depth = 1
    for edge in _COMMENT_EDGE.finditer(sql, position):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    return 0


def _verb(words: list[str]) -> tuple[str, str]:
    """What the statement does, and the first table after that."""
    at = next((number for number, word in enumerate(words) if word not in "()"), None)
    if at is None:
        return "", ""
    if words[at].upper() == "WITH":
        # What a statement writes says more of it than what it answers.
        at = _first_write(words) or _main(words) or at
    operation, queries = words[at].upper(), _named_queries(words)
    target = _target(words[at:], operation)
    while target in queries:
        # A query of a WITH is no table: it is named by what it reads.
        target = _target(words[queries.pop(target) :], "")
    return operation, target


def _named_queries(words: list[str]) -> dict[str, int]:
    """Where the queries of a WITH begin, by their names."""
    found: dict[str, int] = {}
    for number, word in enumerate(words):
        if word == "(" and number >= 2 and words[number - 1].upper() in _OF_A_QUERY:
            name = next(each for each in words[number - 1 :: -1] if each.upper() not in _OF_A_QUERY)
            found.setdefault(name, number + 1)
    return found


def _first_write(words: list[str]) -> int | None:
    """Where the first INSERT, UPDATE, DELETE or MERGE stands; FOR UPDATE and DO UPDATE are none."""
    for number, (before, word) in enumerate(pairwise(words), 1):
        if word.upper() in _WRITES and before.upper() not in _LOCKS:
            return number
    return None


def _main(words: list[str]) -> int | None:
    """Where the verb of the main statement stands: the first outside of parentheses."""
    depth = 0
    for number, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word.upper() in _MAIN:
            return number
    return None


def _target(words: list[str], operation: str) -> str:
    """The first table that a word before it makes known as one, if possible of the outermost FROM."""
    depth, outermost, deeper = 0, False, ""
    for before, word in pairwise(words):
        depth += (before == "(") - (before == ")")
        if depth < 0 and deeper:
            return deeper
        outermost = outermost or (depth <= 0 and before.upper() == "FROM")
        if before.upper() in _BEFORE_NAME and word not in "()" and word.upper() not in _NO_NAME:
            if depth <= 0 or outermost:
                return word
            deeper = deeper or word
    if not deeper and operation in ("COPY", "UPDATE") and len(words) > 1 and words[1] not in "()":
        return words[1]
    return deeper
