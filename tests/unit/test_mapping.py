"""The mapping file and the reading of single lines by it."""

from pathlib import Path

import pytest

from finflow.imports import mapping as mappings
from finflow.imports.model import MAX_DAY_ROWS, Planned, lines_to_plans
from finflow.imports.rows import MAX_LINE_BYTES, Fault, Row, rows
from finflow.kernel.errors import FinFlowError

EXAMPLES = Path(__file__).parents[2] / "examples"

SMALL = """
name = "small"

[row]
id = "id"
date = "day"
date_formats = ["%d.%m.%Y", "%Y-%m-%d"]
amount = "amount"
currency_column = "currency"
description = ["text"]
metadata = { note = "text" }

[customer]
column = "account"

[[counter]]
account = "cash"
kind = "asset"
when = { text = ["in", "out"] }

[[counter]]
account = "shop"
kind = "liability"
by = "text"
"""
HEADER = b"id,account,day,amount,currency,text\n"


def read(*lines: bytes, text: str = SMALL) -> list[Row | Fault]:
    return list(rows([HEADER, *lines], mappings.parse(text)))


def reason(line: bytes) -> str:
    (fault,) = read(line)
    assert isinstance(fault, Fault)
    assert (fault.line, fault.kind) == (2, "broken")
    return fault.reason


@pytest.mark.parametrize("name", ["berka", "generated"])
def test_the_examples_are_mappings(name: str) -> None:
    assert mappings.parse((EXAMPLES / f"{name}.toml").read_text()).name == name


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('name = "small"', 'name = "a b"', 2, "the name is"),
        ('id = "id"', "id = 7", 5, "Expected `str`"),
        ('amount = "amount"', 'amount = "amount"\nunknown_key = 1', 4, "unknown field"),
        ('currency_column = "currency"', "", None, "either currency or currency_column"),
        ('currency_column = "currency"', 'currency = "XXX"', 9, "not in ISO 4217"),
        ("[customer]", '[file]\ndelimiter = ";;"\n[customer]', 14, "one character"),
        ("[customer]", '[file]\nencoding = "nonsense"\n[customer]', 14, "no such encoding"),
        ("[customer]", '[file]\nencoding = "utf-16"\n[customer]', 14, "no such encoding"),
        (
            "[customer]",
            '[file]\nheader = false\ncolumns = ["id"]\n[customer]',
            15,
            "not listed: account, amount",
        ),
        ("[customer]", '[direction]\ncolumn = "text"\ncredit = ["in"]\n[customer]', 15, "that debit"),
        (
            "[customer]",
            '[direction]\ncolumn = "text"\ncredit = ["in"]\ndebit = ["in"]\n[customer]',
            16,
            "cannot both",
        ),
        ("[customer]", '[balance]\ncolumn = "b"\ntolerance = "-1"\n[customer]', 15, "above zero"),
        ('kind = "liability"\nby', 'kind = "money"\nby', 23, "Invalid enum value"),
        ('kind = "asset"', 'kind = "money"', 18, "Invalid enum value"),
    ],
)
def test_a_senseless_mapping_is_refused_with_its_line(
    old: str, new: str, line: int | None, words: str
) -> None:
    with pytest.raises(FinFlowError) as caught:
        mappings.parse(SMALL.replace(old, new, 1))
    assert caught.value.kind.code == "mapping_malformed"
    assert words in caught.value.detail
    if line is not None:
        assert caught.value.detail.startswith(f"line {line}: ")


def test_bad_toml_is_refused_with_the_parser_s_line() -> None:
    with pytest.raises(FinFlowError, match=r"mapping_malformed: .*line 2"):
        mappings.parse("name = 'x'\nrow = ?\n")


def test_a_line_becomes_a_row() -> None:
    (row,) = read(b"17,a1,24.12.2025,-12.5,SGD,Tea & Co\r\n")
    assert isinstance(row, Row)
    assert (row.line, row.key, row.reference) == (2, "small:17", "17")
    assert (row.amount, row.exponent, row.effective_at) == (-1250, 2, "2025-12-24T00:00:00.000000Z")
    assert row.customer == ("small:customer:a1:SGD", "liability", "SGD")
    assert row.counter == ("small:shop:Tea & Co:SGD", "liability", "SGD")
    assert (row.description, row.metadata) == ("Tea & Co", {"note": "Tea & Co"})


def test_the_first_counter_account_that_fits_wins() -> None:
    counters = [
        row.counter.reference for row in read(b"1,a,2025-01-01,1,VND,in", b"2,a,2025-01-01,1,VND,else")
    ]
    assert counters == ["small:cash:VND", "small:shop:else:VND"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1,a,2025-01-01,1,SGD", "5 columns instead of 6"),
        (b"1,a,2025-01-01,1,SGD,x,y", "7 columns instead of 6"),
        (b"1,a,2025-02-30,1,SGD,x", "date '2025-02-30' is not"),
        (b"1,a,1.1.2025,1,SGD,x", "date '1.1.2025' is not"),
        (b"1,a,,1,SGD,x", "date '' is not"),
        (b"1,a,2025-01-01,one,SGD,x", "'one' is not a decimal number"),
        (b"1,a,2025-01-01,1e3,SGD,x", "'1e3' is not a decimal number"),
        (b"1,a,2025-01-01,1.005,SGD,x", "more decimals"),
        (b"1,a,2025-01-01,1.5,VND,x", "more decimals"),
        (b"1,a,2025-01-01,92233720368547758.08,SGD,x", "out of range"),
        (b"1,a,2025-01-01,1,EURO,x", "'EURO' is not in ISO 4217"),
        (b",a,2025-01-01,1,SGD,x", "no id"),
        (b"\xc3\xa9,a,2025-01-01,1,SGD,x", "printable ASCII"),
        (b"1,,2025-01-01,1,SGD,x", "no account"),
        (b'1,"a,2025-01-01,1,SGD,x', "not well-formed"),
        (b"1,a,2025-01-01,1,SGD,\xff", "not utf-8: byte 22"),
        (b"1" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_a_broken_line_is_named(line: bytes, words: str) -> None:
    assert words in reason(line)


def test_a_broken_line_harms_no_other() -> None:
    good = b"1,a,2025-01-01,1,SGD,in\n"
    kinds = [type(item) for item in read(good, b'"1,a\n', b"\n", good.replace(b"1,a", b"2,a"))]
    assert kinds == [Row, Fault, Row]


def test_a_header_without_the_mapping_s_columns_is_refused() -> None:
    with pytest.raises(FinFlowError, match="columns_missing: line 1 has no column amount, currency"):
        list(rows([b"id,account,day,text\n"], mappings.parse(SMALL)))
    with pytest.raises(FinFlowError, match="columns_missing"):
        list(rows([], mappings.parse(SMALL)))


def test_unknown_types_and_signed_amounts_are_broken_where_a_type_gives_the_sign() -> None:
    text = SMALL + '[direction]\ncolumn = "text"\ncredit = ["in"]\ndebit = ["out"]\n'
    lines = (b"1,a,2025-01-01,5,SGD,in", b"2,a,2025-01-01,5,SGD,out", b"3,a,2025-01-01,5,SGD,up")
    credit, debit, unknown = read(*lines, text=text)
    assert isinstance(credit, Row)
    assert isinstance(debit, Row)
    assert (credit.amount, debit.amount) == (500, -500)
    assert unknown == Fault(4, "broken", "unknown text 'up'")
    assert "sign of its own" in str(read(b"1,a,2025-01-01,-5,SGD,in", text=text)[0])


WITH_BALANCE = SMALL.replace("[customer]", '[balance]\ncolumn = "balance"\ntolerance = "0.10"\n[customer]')
BALANCE_HEADER = b"id,account,day,amount,currency,text,balance\n"


def plan(*lines: str) -> list[Planned | Fault]:
    encoded = [line.encode() for line in lines]
    return list(lines_to_plans([BALANCE_HEADER, *encoded], mappings.parse(WITH_BALANCE)))


def test_a_rounded_row_gets_two_more_entries_that_bring_the_balance_home() -> None:
    (planned,) = plan("1,a,2025-01-01,5.00,SGD,in,5.10")
    assert isinstance(planned, Planned)
    assert planned.rounding == 10
    lines = [(entry.account.reference, entry.direction, entry.amount) for entry in planned.entries]
    assert lines == [
        ("small:customer:a:SGD", "credit", 500),
        ("small:cash:SGD", "debit", 500),
        ("small:customer:a:SGD", "credit", 10),
        ("small:rounding:SGD", "debit", 10),
    ]


def test_a_row_of_zero_moves_nothing_and_a_rounded_zero_only_its_rounding() -> None:
    nothing, rounded = plan("1,a,2025-01-01,0.00,SGD,in,0.00", "2,a,2025-01-02,0.00,SGD,in,-0.10")
    assert isinstance(nothing, Planned)
    assert isinstance(rounded, Planned)
    assert nothing.entries == ()
    assert [entry.direction for entry in rounded.entries] == ["debit", "credit"]


def test_a_break_in_the_balances_is_named_once_and_the_rest_goes_on() -> None:
    items = plan(
        "1,a,2025-01-01,5.00,SGD,in,5.00",
        "3,a,2025-01-03,1.00,SGD,in,9.00",
        "4,a,2025-01-04,-2.00,SGD,in,7.00",
    )
    faults = [item for item in items if isinstance(item, Fault)]
    assert faults == [
        Fault(3, "unchained", "the balance does not follow: 5.00 before it, the row says 8.00"),
    ]
    assert [item.row.reference for item in items if isinstance(item, Planned)] == ["1", "3", "4"]


def test_a_file_that_goes_back_in_time_is_refused_by_its_line() -> None:
    with pytest.raises(FinFlowError, match="file_not_sorted: line 3 has 2025-01-01 after 2025-01-02"):
        plan("1,a,2025-01-02,5.00,SGD,in,5.00", "2,b,2025-01-01,5.00,SGD,in,5.00")


def test_without_a_balance_column_order_does_not_matter() -> None:
    lines = [HEADER, b"1,a,2025-01-02,5,SGD,in", b"2,a,2025-01-01,5,SGD,in"]
    items = list(lines_to_plans(lines, mappings.parse(SMALL)))
    assert [item.row.reference for item in items if isinstance(item, Planned)] == ["1", "2"]


def test_an_endless_day_is_refused_instead_of_filling_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finflow.imports.model.MAX_DAY_ROWS", 2)
    day = [f"{number},a{number},2025-01-02,5.00,SGD,in,5.00" for number in range(3)]
    with pytest.raises(FinFlowError, match="day_too_large: 2025-01-02 has more than 2 rows"):
        plan(*day)
    assert MAX_DAY_ROWS == 1_000_000
