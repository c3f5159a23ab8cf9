"""The arithmetic of foreign exchange against fractions: another way to compute, and nothing is gained by it.

The oracle knows no scaled integers: rates, spreads and amounts are `fractions.Fraction` from their decimal
text, and rounding is the library's `round` (half-even), `floor` and `ceil`.
"""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finflow.fx import model
from finflow.fx.model import Found, Known, Priced, Rate, Ratio, Terms
from finflow.kernel.money import MAX_MINOR
from finflow.ledger.book import Refusal

NOW = 1_767_225_600_000_000
DAY = 86_400_000_000
EXPONENTS = {"JPY": 0, "EUR": 2, "USD": 2, "KWD": 3, "CLF": 4, "GOLD": 18}

exponents = st.sampled_from([0, 2, 3, 4])
amounts = st.integers(1, 10**13)
spreads = st.one_of(st.just(0), st.integers(0, 999_999))
rate_texts = st.one_of(
    st.decimals("0.000000000001", "999999999999", places=12),
    st.decimals("0.0001", "30000", places=4),
).map(lambda rate: format(rate, "f"))


def fraction(rate: Rate) -> Fraction:
    return Fraction(rate.text)


def parsed(text: str) -> Rate:
    rate = model.parse_rate(text)
    assert rate is not None
    return rate


def ratio(text: str) -> Ratio:
    return Ratio(*Fraction(text).as_integer_ratio())


def known(base: str, quote: str, rate: str, observed_at: int = NOW - 1, valid_for: int = DAY) -> Known:
    return Known(1, base, quote, parsed(rate), "test", observed_at, observed_at + valid_for, observed_at)


def table(*rates: Known) -> dict[tuple[str, str], Known]:
    return {model.pair(rate.base, rate.quote): rate for rate in rates}


def found(sell: str, buy: str, *rates: Known) -> Found:
    answer = model.find_rate(sell, buy, table(*rates), NOW)
    assert isinstance(answer, Found)
    return answer


def refused(sell: str, buy: str, *rates: Known) -> str:
    answer = model.find_rate(sell, buy, table(*rates), NOW)
    assert isinstance(answer, Refusal)
    return answer.code


def priced(terms: Terms) -> Priced | None:
    answer = model.price(terms)
    return None if isinstance(answer, Refusal) else answer


# --- texts -----------------------------------------------------------------------------------------


@given(rate_texts)
def test_a_rate_is_the_decimal_that_it_was_written_as(text: str) -> None:
    rate = parsed(text)
    assert Decimal(rate.text) == Decimal(text)
    assert not rate.text.endswith(".")
    assert rate.scale == 0 or not rate.text.endswith("0")
    assert model.rate_of(format(Decimal(text), "f")) == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0.000",
        "-1",
        "+1",
        "1e2",
        ".5",
        "5.",
        "1,5",
        "١",
        "1" * 13,
        "1." + "1" * 13,
        "NaN",
        " 1",
        "1\n",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    assert model.parse_rate(text) is None


def test_a_spread_is_parts_per_million_below_one() -> None:
    texts = {"0": 0, "0.005": 5_000, "0.000001": 1, "0.999999": 999_999, "0.10": 100_000}
    assert {text: model.parse_spread(text) for text in texts} == texts
    wrong = ["1", "0.0000001", "-0.1", "", ".5", "0.", "00.1", "0.5%", "0.1\n"]
    assert [model.parse_spread(text) for text in wrong] == [None] * len(wrong)


@given(st.integers(-(10**20), 10**20), st.integers(0, 25))
def test_decimal_text_is_the_number(units: int, scale: int) -> None:
    assert Fraction(model.decimal_text(units, scale)) == Fraction(units, 10**scale)


# --- rates -----------------------------------------------------------------------------------------


def test_the_pair_itself_is_answered_as_it_was_given() -> None:
    answer = found("EUR", "USD", known("EUR", "USD", "1.0835"))
    assert (answer.rate.text, answer.method) == ("1.0835", "direct")


def test_the_other_way_round_is_the_inverse_and_shown_with_eighteen_digits() -> None:
    answer = found("USD", "EUR", known("EUR", "USD", "1.0835"))
    assert (answer.rate.text, answer.method) == ("0.922934933087217351", "inverse")
    # Known by hand: a third has no end, and what is too long is cut, not rounded up.
    assert found("USD", "EUR", known("EUR", "USD", "1.5")).rate.text == "0." + "6" * 18
    assert found("IDR", "EUR", known("EUR", "IDR", "17000")).rate.text == "0.0000588235294117647058"


def test_a_cross_goes_through_the_first_pivot_that_serves() -> None:
    euro = (known("EUR", "SGD", "1.45"), known("EUR", "JPY", "160"))
    dollar = (known("USD", "SGD", "1.3"), known("USD", "JPY", "150"))
    assert found("SGD", "JPY", *euro, *dollar).rate.text == "110.344827586206896"
    assert found("SGD", "JPY", *dollar).rate.text == "115.384615384615384"
    stale = (known("EUR", "SGD", "1.45", valid_for=1), known("EUR", "JPY", "160"))
    assert [v.base for v in found("SGD", "JPY", *stale, *dollar).via] == ["USD", "USD"]
    assert found("SGD", "JPY", *euro, known("JPY", "SGD", "0.01")).method == "inverse"


def test_what_no_rate_leads_to_is_unknown_and_what_only_old_ones_do_is_stale() -> None:
    assert refused("SGD", "JPY") == "pair_unknown"
    assert refused("SGD", "JPY", known("EUR", "SGD", "1.45")) == "pair_unknown"
    assert refused("SGD", "JPY", known("SGD", "JPY", "110", valid_for=1)) == "rate_stale"
    half = (known("EUR", "SGD", "1.45"), known("EUR", "JPY", "160", valid_for=1))
    assert refused("SGD", "JPY", *half) == "rate_stale"


@given(st.lists(rate_texts, min_size=1, max_size=2), st.data())
def test_a_derived_rate_is_exact_and_shown_cut_at_its_eighteenth_digit(
    texts: list[str], data: st.DataObject
) -> None:
    turned = [data.draw(st.booleans()) for _ in texts]
    steps = [("SGD", "EUR"), ("EUR", "JPY")] if len(texts) == 2 else [("SGD", "JPY")]
    rates = [
        known(*(reversed(step) if turn else step), rate=text)
        for step, turn, text in zip(steps, turned, texts, strict=True)
    ]
    exact = Fraction(1)
    for turn, text in zip(turned, texts, strict=True):
        exact *= 1 / Fraction(text) if turn else Fraction(text)
    there, back = found("SGD", "JPY", *rates), found("JPY", "SGD", *rates)
    assert Fraction(*there.ratio) == exact
    assert Fraction(*there.ratio) * Fraction(*back.ratio) == 1
    rate = fraction(there.rate)
    assert rate == exact if turned == [False] else 0 <= exact - rate < exact / 10**17


def test_what_a_computed_rate_makes_whole_stays_whole() -> None:
    """108.35 USD are 100.00 EUR where a euro is 1.0835 dollars, although 1 / 1.0835 has no end."""
    back = found("USD", "EUR", known("EUR", "USD", "1.0835"))
    assert priced(Terms(2, 2, "sell", 10_835, back.ratio, 0)) == Priced(10_835, 10_000, 10_000, 0, 0, "0")
    assert priced(Terms(2, 2, "buy", 10_000, back.ratio, 0)) == Priced(10_835, 10_000, 10_000, 0, 0, "0")


# --- amounts ---------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(exponents, exponents, st.sampled_from(["sell", "buy"]), amounts, rate_texts, spreads)
def test_amounts_are_those_that_fractions_give(
    sell_exponent: int, buy_exponent: int, fixed: model.FixedSide, amount: int, text: str, spread_ppm: int
) -> None:
    got = model.price(Terms(sell_exponent, buy_exponent, fixed, amount, ratio(text), spread_ppm))
    mid = Fraction(text) * Fraction(10) ** (buy_exponent - sell_exponent)
    customer = mid * (1 - Fraction(spread_ppm, 10**6))
    sell = amount if fixed == "sell" else math.ceil(amount / customer)
    buy = math.floor(amount * customer) if fixed == "sell" else amount
    if buy == 0:
        assert got == Refusal("converts_to_zero", "amount")
        return
    fair = round(sell * mid)
    if max(sell, buy, fair) > MAX_MINOR:
        assert got == Refusal("amount_out_of_range", "amount")
        return
    spread = math.floor(sell * (mid - customer))
    assert isinstance(got, Priced)
    assert got[:5] == (sell, buy, fair, spread, fair - buy - spread)
    left = (sell * mid - fair) / 10**buy_exponent
    assert abs(left) <= Fraction(1, 2 * 10**buy_exponent)
    assert 0 <= abs(left) - abs(Fraction(got.residue)) < Fraction(1, 10 ** (buy_exponent + 12))
    assert got.rounding >= 0
    if fixed == "sell":
        assert got.rounding <= 2


def test_examples_that_were_worked_out_by_hand() -> None:
    def at(sell: int, buy: int, amount: int, rate: str, ppm: int, fixed: model.FixedSide = "sell") -> object:
        return model.price(Terms(sell, buy, fixed, amount, ratio(rate), ppm))

    # 100.00 EUR at 1.0835 is 108.35 USD; half a per cent of it is 0.54175, so 107.80 go to the customer.
    assert at(2, 2, 10_000, "1.0835", 5_000) == Priced(10_000, 10_780, 10_835, 54, 1, "0")
    # 1.00 USD at 157.25 is 157.25 JPY, which has no decimals.
    assert at(2, 0, 100, "157.25", 0) == Priced(100, 157, 157, 0, 0, "0.25")
    # 1 JPY at 0.0068 is 0.68 cents: nearest would give a cent, the customer gets none.
    assert at(0, 2, 1, "0.0068", 0) == Refusal("converts_to_zero", "amount")
    # 2 JPY are 1.36 cents: one cent. 1.500 KWD at 3.25 is 4.875 USD: 4.88 half-even, 4.87 for the customer.
    assert at(0, 2, 2, "0.0068", 0) == Priced(2, 1, 1, 0, 0, "0.0036")
    assert at(3, 2, 1_500, "3.25", 0) == Priced(1_500, 487, 488, 0, 1, "-0.005")
    # 0.01 USD buys 0.0003 CLF and a bit; to buy 1.0000 CLF takes 3,571.43 USD, rounded up.
    assert at(2, 4, 1, "0.028", 0) == Priced(1, 2, 3, 0, 1, "-0.00002")
    assert at(2, 4, 10_000, "0.00028", 0, "buy") == Priced(357_143, 10_000, 10_000, 0, 0, "0.0000004")


@settings(max_examples=300)
@given(exponents, exponents, st.lists(amounts, min_size=2, max_size=6), rate_texts, spreads)
def test_nobody_gains_by_splitting(
    sell_exponent: int, buy_exponent: int, parts: list[int], text: str, spread_ppm: int
) -> None:
    def terms(fixed: model.FixedSide, amount: int) -> Terms:
        return Terms(sell_exponent, buy_exponent, fixed, amount, ratio(text), spread_ppm)

    whole = model.price(terms("sell", sum(parts)))
    pieces = [priced(terms("sell", part)) for part in parts]
    assume(whole != Refusal("amount_out_of_range", "amount"))
    got = sum(piece.buy for piece in pieces if piece)
    assert got <= (whole.buy if isinstance(whole, Priced) else 0)
    total, costs = priced(terms("buy", sum(parts))), [priced(terms("buy", part)) for part in parts]
    if total and all(costs):
        assert sum(cost.sell for cost in costs if cost) >= total.sell


@settings(max_examples=300)
@given(st.data(), amounts, spreads)
def test_nobody_gains_by_going_round(data: st.DataObject, amount: int, spread_ppm: int) -> None:
    """Through any currencies and back to the first, by sold and by bought amounts, also without a spread."""
    currencies = ["EUR", "USD", "JPY", "KWD", "CLF"]
    rates = [known("EUR", code, data.draw(rate_texts)) for code in currencies[1:]]
    way = data.draw(st.lists(st.sampled_from(currencies), min_size=1, max_size=5))
    start = held_currency = data.draw(st.sampled_from(currencies))
    held = amount
    for code in [*way, start]:
        if code == held_currency:
            continue
        answer = found(held_currency, code, *rates)
        terms = Terms(EXPONENTS[held_currency], EXPONENTS[code], "sell", held, answer.ratio, spread_ppm)
        step = priced(terms)
        if step is None:
            return
        if data.draw(st.booleans()):
            # The same by naming what is bought: it may cost less, and never more than is there.
            again = priced(terms._replace(fixed="buy", amount_minor=step.buy))
            assert again is not None
            assert again.sell <= held
        held, held_currency = step.buy, code
    assert held <= amount


@settings(max_examples=200)
@given(st.lists(st.tuples(amounts, spreads, st.sampled_from(["sell", "buy"])), max_size=20), rate_texts)
def test_every_currency_sums_to_zero_and_only_the_position_lies_between(
    conversions: list[tuple[int, int, model.FixedSide]], text: str
) -> None:
    """The books of any sequence, kept in a dictionary: what a customer lost and won is on the bank's side."""
    books = dict.fromkeys(("customer A", "position A", "position B", "customer B", "spread", "rounding"), 0)
    exact = Fraction(0)
    for amount, spread_ppm, fixed in conversions:
        one = priced(Terms(2, 0, fixed, amount, ratio(text), spread_ppm))
        if one is None:
            continue
        for account, minor in zip(
            books, (one.sell, -one.sell, one.fair, -one.buy, -one.spread, -one.rounding), strict=True
        ):
            books[account] += minor
        assert abs(one.sell * Fraction(text) / 100 - one.fair) <= Fraction(1, 2)
        exact += one.sell * Fraction(text) / 100
    assert books["customer A"] + books["position A"] == 0
    assert sum(books.values()) == 0
    assert abs(exact - books["position B"]) <= Fraction(len(conversions), 2)
