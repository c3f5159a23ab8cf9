"""Amounts at their edges, against Python's Decimal and the words of ISO 4217."""

# ruff: noqa: E501 - the lists of wrong texts read as lists

import re
from decimal import Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finflow.kernel import money
from finflow.kernel.currencies import EXPONENTS

INT64_MAX = 9_223_372_036_854_775_807

ACCEPTED = [
    # text, exponent, minor units, text with all decimals
    ("0", 0, 0, "0"),
    ("1", 0, 1, "1"),
    ("12.5", 2, 1250, "12.50"),
    ("12.50", 2, 1250, "12.50"),
    ("12", 2, 1200, "12.00"),
    ("0.01", 2, 1, "0.01"),
    ("-0.01", 2, -1, "-0.01"),
    ("-0", 2, 0, "0.00"),
    ("007.50", 2, 750, "7.50"),
    ("1.234", 3, 1234, "1.234"),
    ("0.0001", 4, 1, "0.0001"),
    ("0.000000000000000001", 18, 1, "0.000000000000000001"),
    ("9223372036854775807", 0, INT64_MAX, "9223372036854775807"),
    ("92233720368547758.07", 2, INT64_MAX, "92233720368547758.07"),
    ("9223372036854775.807", 3, INT64_MAX, "9223372036854775.807"),
    ("922337203685477.5807", 4, INT64_MAX, "922337203685477.5807"),
    ("9.223372036854775807", 18, INT64_MAX, "9.223372036854775807"),
    ("-9223372036854775807", 0, -INT64_MAX, "-9223372036854775807"),
    ("0000000000000000000000001.00", 2, 100, "1.00"),
]

REFUSED: list[tuple[str, int, type[ValueError]]] = [
    ("9223372036854775808", 0, money.OutOfRange),
    ("-9223372036854775808", 0, money.OutOfRange),
    ("92233720368547758.08", 2, money.OutOfRange),
    ("922337203685477.5808", 4, money.OutOfRange),
    ("9" * 39, 0, money.OutOfRange),
    ("9" * 10_000, 2, money.OutOfRange),
    ("1.5", 0, money.TooPrecise),
    ("1.0", 0, money.TooPrecise),
    ("1.001", 2, money.TooPrecise),
    ("1.000", 2, money.TooPrecise),
    ("0.0001", 3, money.TooPrecise),
    ("0.00001", 4, money.TooPrecise),
    *[
        (text, 2, money.Malformed)
        for text in (
            "", "-", ".", "-.", ".5", "-.5", "5.", "-5.", "+1", "--1", "-+1", "1-", "1.-5", "1.5.2", "1..5", " 1", "1 ",
            "1 0", "1_000", "1,000", "1,5", "1e3", "1E3", "1.5e1", "0x10", "0b1", "nan", "NaN", "inf", "Infinity", "$5",
            "5 SGD", "٣", "１", "¹", "²", "1\u0662", "1.\u0661\u0662", "½", "一", "1\n", "\n1", "1\0", "1\u200b", "−1", "１.5",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("text", "exponent", "minor", "_whole"), ACCEPTED)
def test_a_plain_decimal_is_counted(text: str, exponent: int, minor: int, _whole: str) -> None:
    assert money.to_minor(text, exponent) == minor


@pytest.mark.parametrize(("_text", "exponent", "minor", "whole"), ACCEPTED)
def test_a_count_is_written_with_all_its_decimals(_text: str, exponent: int, minor: int, whole: str) -> None:
    assert money.to_text(minor, exponent) == whole


@pytest.mark.parametrize(("text", "exponent", "error"), REFUSED)
def test_anything_else_is_refused_for_its_reason(text: str, exponent: int, error: type[ValueError]) -> None:
    assert outcome(text, exponent) is error


@given(st.integers(-INT64_MAX, INT64_MAX), st.sampled_from([0, 2, 3, 4, 18]))
def test_text_and_count_are_inverse(minor: int, exponent: int) -> None:
    text = money.to_text(minor, exponent)
    assert money.to_minor(text, exponent) == minor
    with localcontext() as context:
        context.prec = 60
        assert Decimal(text).scaleb(exponent) == minor
    assert len(text.partition(".")[2]) == exponent


@given(
    st.one_of(
        st.text(alphabet="0123456789.-", max_size=45),
        st.text(max_size=8),
        st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{0,6})?", fullmatch=True),
    ),
    st.sampled_from([0, 2, 3, 4]),
)
@example("1" * 40 + "x", 2)
@example("0" * 60 + "1", 2)
@example("1." + "0" * 60, 2)
def test_every_text_is_judged_as_decimal_judges_it(text: str, exponent: int) -> None:
    """Malformed first, then too precise, then out of range: the order of the rules."""
    assert outcome(text, exponent) == expected(text, exponent)


def outcome(text: str, exponent: int) -> object:
    try:
        return money.to_minor(text, exponent)
    except ValueError as error:
        return type(error)


def expected(text: str, exponent: int) -> object:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text, re.ASCII):
        return money.Malformed
    if len(text.partition(".")[2]) > exponent:
        return money.TooPrecise
    with localcontext() as context:
        context.prec = 300
        minor = int(Decimal(text).scaleb(exponent))
    return minor if abs(minor) <= INT64_MAX else money.OutOfRange


def test_the_currencies_of_our_examples_have_their_iso_exponents() -> None:
    # From ISO 4217 list one; the four exponents in use.
    known = {"JPY": 0, "KRW": 0, "VND": 0, "SGD": 2, "IDR": 2, "THB": 2, "PHP": 2, "MYR": 2, "USD": 2,
             "CZK": 2, "BHD": 3, "KWD": 3, "TND": 3, "CLF": 4, "UYW": 4}  # fmt: skip
    assert {code: money.exponent_of(code) for code in known} == known
    assert set(EXPONENTS.values()) == {0, 2, 3, 4}
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in EXPONENTS)


@pytest.mark.parametrize("code", ["XAU", "XTS", "XXX", "sgd", "SG", "", "BTC", "DEM"])
def test_what_is_no_currency_has_no_exponent(code: str) -> None:
    assert money.exponent_of(code) is None
