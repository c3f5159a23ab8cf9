"""SQL as text: where its statements begin and end. It reads no grammar, only what hides a semicolon."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

# One alternative for each thing that a semicolon can stand in; what none of them matches is one character.
_HIDES: Final = re.compile(
    r"""--[^\n]*                                    # a comment to the end of the line
      | /\*                                         # a comment that may hold others: read on by hand
      | [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)             # a string in which a backslash escapes
      | '(?:[^']|'')*(?:'|\Z)
      | "(?:[^"]|"")*(?:"|\Z)
      | \$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w]*)?)\$ # a string between two equal tags
      | [A-Za-z_\x80-\U0010ffff][\w$]*              # a word, so that a$b$ opens nothing and note'x' is none
      | ;""",
    re.VERBOSE | re.DOTALL,
)
_BLANK: Final = re.compile(r"(?:\s+|--[^\n]*)*")


class Statement(msgspec.Struct, frozen=True):
    """One statement: where it begins in its file, in characters, its text, and the comments before it."""

    offset: int
    text: str
    comments: str


def statements(sql: str) -> list[Statement]:
    """The statements of a text, in their order, without their semicolons; empty ones are left out."""
    found = []
    for begin, end in _pieces(sql):
        first = _behind_blanks(sql, begin, end)
        text = sql[first:end].rstrip()
        if text:
            found.append(Statement(first, text, sql[begin:first]))
    return found


def _pieces(sql: str) -> Iterator[tuple[int, int]]:
    begin = position = 0
    while match := _HIDES.search(sql, position):
        position = match.end()
        if match[0] == ";":
            yield begin, match.start()
            begin = position
        elif match[0] == "/*":
            position = _comment_end(sql, position)
        elif match["tag"] is not None:
            closing = sql.find(match[0], position)
            position = len(sql) if closing < 0 else closing + len(match[0])
    yield begin, len(sql)


def _behind_blanks(sql: str, position: int, end: int) -> int:
    """Where the first word stands, behind white space and comments."""
    while True:
        blank = _BLANK.match(sql, position, end)
        position = blank.end() if blank else position
        if not sql.startswith("/*", position, end):
            return position
        position = min(end, _comment_end(sql, position + 2))


def _comment_end(sql: str, position: int) -> int:
    """Where a comment ends that has begun before `position`; comments nest."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", sql[position:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return position + mark.end()
    return len(sql)


def place(sql: str, offset: int) -> tuple[int, int]:
    """Line and column of a character, both counted from one."""
    before = sql[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
