"""SQL as spans show it: what PostgreSQL's lexer calls a constant or a comment is in no attribute."""

import re
from time import perf_counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, scan

from finflow.settlement import audit_store
from finflow.telemetry.statements import MAX_TEXT, described

WORD = "hunter2"
# The main statement stands behind more than is shown.
WIDE = f"with a as (select {'x, ' * 1_500} 1 from t) {{}}"  # noqa: S608 # it is not asked
CONSTANTS = {"SCONST", "USCONST", "BCONST", "XCONST", "ICONST", "FCONST"}
COMMENTS = {"C_COMMENT", "SQL_COMMENT"}


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (r"select E'a\'b secret', e'''secret'", "select ?, ?"),
        ("select $b1$secret$b1$, $é$se$b1$cret$é$", "select ?, ?"),
        ("""select "it's", 'secret', "a""b'", 'secret'""", """select "it's", ?, "a""b'", ?"""),
        ("select $$it's$$, 'x' -- don't\n, 'secret'", "select ?, ? , ?"),
        ("select 0x1F, 0o17, 0b1_0, 1_000_000, .5, 1., 1.e-3, -7", "select ?, ?, ?, ?, ?, ?, ?, -?"),
        ("select a[1:2], t.c1, $1, x1, a$1, 1..2", "select a[?:?], t.c1, $1, x1, a$1, ?..?"),
        ("/* /* */ secret */ select 1 /* * / /*/**/*/ secret */", "select ?"),
        ("select 'a' -- it's one\n  -- literal'\n 'secret', E'a'\n'\\'secret'", "select ?, ?"),
        ("select 'a' 'secret'", "select ? ?"),
        (r"select U&'\0061 secret' uescape '!', N'x', b'01', X'ff'", "select ? uescape ?, ?, ?, ?"),
        (r"""select U&"d\0061't" from "T"."x y" """, r"""select U&"d\0061't" from "T"."x y" """.strip()),
        (r"select '^\d+\\', 'secret'", "select ?, ?"),
        (r"select a.E'\'secret', date'2020-01-01'", "select a.?, date?"),
        ("insert into t values (1,'a'),(-2.5E+7,'b''')", "insert into t values (?,?),(-?,?)"),
    ],
)
def test_constants_of_every_kind_are_hidden_and_nothing_else(sql: str, text: str) -> None:
    assert described(sql).text == text


@pytest.mark.parametrize(
    "rest",
    [
        "'secret", "E'secret\\'", "$a$secret$b$", "/* secret /* */", '"secret', "U&'secret", "1secret",
        r"'a\'b secret'", r"'a\' , secret'", "\\secret", "'" + "secret" * 5_000 + "'",
        "a, " * 6_663 + "/* secret secret secret */", "0xsecret", "'a'\n'secret", "\0secret",
    ],
)  # fmt: skip
def test_of_what_cannot_be_told_only_the_operation_is_shown(rest: str) -> None:
    assert described(f"select {rest}") == ("SELECT", "SELECT", "")


@pytest.mark.parametrize(
    ("sql", "summary"),
    [
        (WIDE.format("select * from a join b"), "SELECT t"),
        (WIDE.format("insert into u select * from a"), "INSERT u"),
        ("with a as (select 1 from x for no key update) select 1 from y", "SELECT y"),
        ("/* update secret */ -- delete\n select 1 from y", "SELECT y"),
        ("(select a from t) union (select b from u)", "SELECT t"),
        ("""select 'from secret' from "S"."T" """, 'SELECT "S"."T"'),
        ("select (select 1 from x), extract(epoch from at) from t", "SELECT t"),
        ("copy (select 1 from x) to stdout", "COPY x"),
        ("copy (select 1) to stdout", "COPY"),
        ("x" * 5_000, "X" * 255),
        (audit_store._AUDITS, "SELECT settlement_orders"),
        ("with a as (select 1 from x), b as not materialized (select 1 from y) select 1 from b", "SELECT y"),
        ("with a as (select 1 from x) select 1 from a join z on true", "SELECT x"),
    ],
)
def test_the_operation_is_that_of_the_main_statement_however_far_it_stands(sql: str, summary: str) -> None:
    assert described(sql).summary == summary
    assert len(described(sql).text) <= MAX_TEXT + len(" ...")


def quoted(quote: str, inner: list[str]) -> str:
    return quote + "".join(inner) + quote.lstrip("eEuU&nNbBxX")


def pieces(*texts: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from([WORD, f" {WORD} ", *texts]), min_size=1, max_size=4)


NESTED = st.recursive(
    pieces("'", '"', "$$", "--", "\n").map("".join),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda each: "/*" + "*//*".join(each) + "*/"),
    max_leaves=5,
)
HIDING = st.one_of(
    st.builds(
        quoted,
        st.sampled_from(["'", "N'", "b'", "X'", "U&'"]),
        pieces("''", '"', "$$", "--", "/*", "*/", "\\n", "\\\\", "\n"),
    ),
    st.builds(
        quoted, st.sampled_from(["E'", "e'"]), pieces("''", "\\'", "\\\\", '"', "$$", "--", "/*", "\n")
    ),
    st.builds(
        quoted,
        st.sampled_from(["$$", "$a$", "$b1$", "$_é$"]),
        pieces("'", "\\", '"', "$1", "$c$", "--", "/*"),
    ),
    pieces("'", '"', "$$", "/*", "--").map(lambda each: "--" + "".join(each) + "\n"),
    NESTED.map(lambda inner: f"/*{inner}*/"),
    st.sampled_from([f"'{WORD}'\n'{WORD}'", f"E'a' --{WORD}'\n '\\'{WORD}'"]),
)
SHOWING = st.sampled_from(
    [
        "a",
        "t.c",
        '"it\'s"',
        '"a""b"',
        'U&"\'"',
        "$1",
        ",",
        "(",
        ")",
        "->>",
        "::int",
        "/ ",
        "- ",
        "from",
        "select",
    ]
)
NUMBERS = st.sampled_from(["4711", ".4711", "0x4711", "1_4711", "4711.4711e-4711", "4711.", "0b4711"])


@given(st.lists(st.tuples(st.one_of(HIDING, SHOWING, NUMBERS), st.sampled_from([" ", "\n", "\t ", ", "]))))
def test_no_secret_of_a_literal_or_a_comment_is_in_any_attribute(parts: list[tuple[str, str]]) -> None:
    for first in ("select ", "with x as (select 1) insert into y ", ""):
        found = described(first + "".join(token + blank for token, blank in parts))
        assert WORD.lower() not in repr([*found, found.summary]).lower()
        assert "4711" not in repr([*found, found.summary])


def as_postgresql_reads_it(sql: str) -> tuple[str, set[str]]:
    """The text as it should be shown, and the names of the tokens in it."""
    shown, end, names = "", 0, set()
    for token in scan(sql):
        constant, comment = token.name in CONSTANTS, token.name in COMMENTS
        shown += " " * (token.start > end)
        shown += "?" if constant else " " if comment else sql[token.start : token.end + 1]
        end = token.end + 1
        names.add(token.name)
    return " ".join(shown.split()).rstrip(";"), names


CHUNKS = ["'", '"', "$", "$$", "\\", "E'", "U&'", 'U&"', "x'", "--", "/*", "*/", "\n", " "]
MORE = ["a", "e", "b1", "1", "0x", "_", ".", "..", "+", "-", "*", ",", "(", "::", "$1", "$a$", "''"]


@given(st.lists(st.sampled_from(CHUNKS + MORE), max_size=14).map("".join))
@example("'a'\n'b\\'c'")
@example("E'a' -- '\n '\\'' 1")
@example("*/*/*/**/*/*/")
@example("$a$ $b$a$ 1")
def test_it_is_read_as_postgresql_reads_it(sql: str) -> None:
    found = described(sql)
    try:
        theirs, names = as_postgresql_reads_it(sql)
    except ParseError:
        return
    # x'1''0' are two to PostgreSQL; how many is all the same.
    ours, theirs = (re.sub(r"\?+", "?", text) for text in (found.text, theirs))
    assert ours in (theirs, found.operation)
    if ours != theirs:
        # Only where standard_conforming_strings decides, or at a character that has no meaning.
        assert "\\'" in sql or names & {"ASCII_36", "ASCII_92"}


@pytest.mark.parametrize(
    "repeated",
    ["'a' ", "/*", "$a$", "E'\\'", "a.", "'a'\n--x\n", "'a' ----", "(", "1", "''", 'U&"', "\n--'", "with "],
)
def test_a_statement_of_any_length_is_read_in_bounded_time(repeated: str) -> None:
    began_s = perf_counter()
    described("'" + repeated * 500_000)
    described(repeated * 500_000)
    assert perf_counter() - began_s < 1.0
