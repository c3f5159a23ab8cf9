"""Ten faults of a release, made for real in its writer, each found and named; what follows is no new case."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finflow.fx import model as fx_model
from finflow.fx.service import Exchange
from finflow.kernel import money
from finflow.ledger import account_rules, copy
from finflow.ledger import commands as c
from finflow.ledger import model as rules
from finflow.ledger.book import Book, Refusal
from finflow.shadow.cases import Case
from finflow.shadow.model import WRONG, Outcome
from oracles.service import desk, transfer
from oracles.shadowing import cloned, watched
from oracles.trading import Market, market_of

Patch = pytest.MonkeyPatch
Traffic = Callable[[Market], Awaitable[Any]]


@pytest.fixture(autouse=True)
def whole() -> Any:
    """As on a fleet that is shadowed: the journal keeps what was asked."""
    copy.keep_commands_whole(True)
    yield
    copy.keep_commands_whole(False)


# --- the faults --------------------------------------------------------------------------------------


def amount(patch: Patch) -> None:
    right = money.to_minor
    patch.setattr(rules.money, "to_minor", lambda text, exponent: 10 * right(text, exponent))


def rounding(patch: Patch) -> None:
    def up(numerator: int, denominator: int) -> int:
        return -(-numerator // denominator)

    patch.setattr(fx_model, "half_even", up)


def currency(patch: Patch) -> None:
    right = fx_model.price

    def price(terms: fx_model.Terms) -> Any:
        # A currency without minor units is taken for one with two.
        return right(terms._replace(buy_exponent=2) if terms.buy_exponent == 0 else terms)

    patch.setattr(fx_model, "price", price)


def sign(patch: Patch) -> None:
    patch.setattr(rules, "DEBIT", -1)
    patch.setattr(rules, "CREDIT", 1)


def account(patch: Patch) -> None:
    right = rules._read_lines

    def read(book: Book, command: c.PostTransaction, legs: list[Any]) -> Refusal | None:
        refusal = right(book, command, legs)
        if refusal is None:
            others = [a for a in book.by_number.values() if a.currency == legs[0].account.currency]
            legs[-1] = replace(
                legs[-1], account=next(a for a in others if a not in [leg.account for leg in legs])
            )
        return refusal

    patch.setattr(rules, "_read_lines", read)


def missing_fee_leg(patch: Patch) -> None:
    right = Exchange.conversion

    async def conversion(self: Exchange, *where: str) -> tuple[str, c.PostTransaction]:
        ledger_id, command = await right(self, *where)
        kept = command.entries[:4]
        # Balanced all the same: the position pays no more than the customer gets.
        kept[2] = replace(kept[2], amount=kept[3].amount)
        return ledger_id, replace(command, entries=kept)

    patch.setattr(Exchange, "conversion", conversion)


def wrong_refusal(patch: Patch) -> None:
    def refuses(account: Any) -> str | None:
        return "exceeds_available"

    patch.setattr(rules, "_balance_refusal", refuses)


def wrong_order(patch: Patch) -> None:
    def decide(book: Book, requests: Any, at: int) -> list[Any]:
        found, first = [], book.seq
        for place in reversed(range(len(requests))):
            book.seq = first + place
            found.append(rules.decide_one(book, requests[place], at))
        book.seq = first + len(requests)
        return found[::-1]

    patch.setattr(rules, "decide", decide)


def metadata(patch: Patch) -> None:
    patch.setattr("finflow.fx.service.model.decimal_text", lambda units, scale: "0.1")


def account_metadata(patch: Patch) -> None:
    right = account_rules._change

    def change(book: Book, one: Any, command: c.ChangeAccount, limits: Any) -> None:
        right(book, one, replace(command, metadata={"lost": "yes"}), limits)

    patch.setattr(account_rules, "_change", change)


def opens_nothing(patch: Patch) -> None:
    right = rules._DECIDERS[c.OpenAccount]
    patch.setitem(
        rules._DECIDERS, c.OpenAccount, (right[0], lambda *_: Refusal("currency_unknown", "currency"))
    )


def takes_any_reference(patch: Patch) -> None:
    patch.setattr(account_rules, "longer", lambda text, most: False)


def no_upper_limit(patch: Patch) -> None:
    right = rules._balance_refusal

    def refusal(account: Any) -> str | None:
        code = right(account)
        return None if code == "exceeds_limit" else code

    patch.setattr(rules, "_balance_refusal", refusal)


def duplicate(patch: Patch) -> None:
    """Made by the traffic itself, as a program does that retries under a new key."""


# --- what is asked while they are there --------------------------------------------------------------


async def payments(market: Market) -> None:
    one = market.one
    first, second = market.accounts["EUR"], market.accounts["EUR2"]
    await one.do(transfer(first, second, "12.34", "EUR"), transfer(first, second, "0.66", "EUR"))


async def held(market: Market) -> None:
    [hold] = await market.one.do(
        transfer(market.accounts["EUR"], market.accounts["EUR2"], "7", "EUR", pending=True)
    )
    await market.one.do(c.PostPending(hold.transaction_id(1), "5"))


async def conversion(market: Market) -> None:
    for amount_text in ("33.37", "120"):
        quote_id = await market.quote("EUR", "JPY", amount_text)
        await market.convert(quote_id, "EUR", "JPY")


async def change(market: Market) -> None:
    await market.one.do(c.ChangeAccount(market.accounts["EUR"], metadata={"name": "Ada"}))


async def opening(market: Market) -> None:
    [record] = await market.one.do(c.OpenAccount("EUR", "liability", external_reference="x" * 300))
    if record.account is not None:
        market.accounts["EUR2"] = record.account.account_id


async def more_accounts(market: Market) -> None:
    await market.one.do(*[c.OpenAccount("EUR", "liability", external_reference=f"new-{n}") for n in range(3)])


async def over(market: Market) -> None:
    [limited] = await market.one.open(currency="EUR", kind="liability", upper_limit="10")
    market.accounts["LIMITED"] = limited
    await market.one.do(transfer(limited, market.accounts["EUR"], "12", "EUR"))


async def twice(market: Market) -> None:
    command = transfer(market.accounts["EUR"], market.accounts["EUR2"], "9", "EUR")
    for key in ("intent-9", "intent-9-retry"):
        await market.one.service.submit(market.one.ledger_id, [c.Request(key, command, "test")])


FAULTS: list[tuple[Any, Traffic, Outcome, str]] = [
    (amount, payments, Outcome.MISMATCH, "entries[0]"),
    (amount, held, Outcome.MISMATCH, "entries[0]"),
    (rounding, conversion, Outcome.MISMATCH, "fair_minor"),
    (currency, conversion, Outcome.MISMATCH, "buy_minor"),
    (sign, payments, Outcome.MISMATCH, "entries[0]"),
    (account, payments, Outcome.MISMATCH, "entries[1]"),
    (missing_fee_leg, conversion, Outcome.MISMATCH, "entries[4]"),
    (duplicate, twice, Outcome.EXTRA, "repeats"),
    (wrong_refusal, payments, Outcome.REFUSED_DIFFERENTLY, "code"),
    (opens_nothing, more_accounts, Outcome.REFUSED_DIFFERENTLY, "code"),
    (takes_any_reference, opening, Outcome.REFUSED_DIFFERENTLY, "code"),
    (no_upper_limit, over, Outcome.REFUSED_DIFFERENTLY, "code"),
    (wrong_order, payments, Outcome.MISMATCH, "balance_after"),
    (metadata, conversion, Outcome.MISMATCH, "metadata.fx_spread"),
    (account_metadata, change, Outcome.MISMATCH, "settings.metadata"),
]


@pytest.mark.parametrize(
    ("fault", "traffic", "outcome", "place"), FAULTS, ids=[f"{f[0].__name__}-{f[1].__name__}" for f in FAULTS]
)
async def test_a_fault_is_found_and_named(
    database_url: str, database_url_empty: str, tmp_path: Path,
    fault: Any, traffic: Traffic, outcome: Outcome, place: str,
) -> None:  # fmt: skip
    async with desk(database_url) as one:
        market = await market_of(one)
        for name in ("EUR2", "EUR3"):
            [market.accounts[name]] = await one.open(currency="EUR", kind="liability")
        await one.do(transfer(market.accounts["EUR"], market.accounts["EUR2"], "1", "EUR"))
        await cloned(database_url, database_url_empty)
        async with watched(database_url, database_url_empty, tmp_path / "s") as shadow:
            await conversion(market)
            await payments(market)
            assert (await shadow.catch_up()).wrong == 0
            before = await one.value("select seq from heads")
            with pytest.MonkeyPatch.context() as patch:
                fault(patch)
                await traffic(market)
            await shadow.catch_up()
            found = shadow.cases
            assert [case for case in found if case.outcome is outcome and _has(case, place)]
            assert {case.outcome for case in found} <= {outcome, Outcome.FOLLOWS, Outcome.MISMATCH}
            assert all(case.number > before for case in found if case.subject == "command")
            # The release is taken back; what it left on the accounts is no news.
            await conversion(market)
            await payments(market)
            await held(market)
            report = await shadow.catch_up()
    assert [case for case in shadow.cases[len(found) :] if case.outcome in WRONG] == []
    assert report.wrong == len([case for case in found if case.outcome in WRONG])
    assert report.bound is None


def _has(case: Case, place: str) -> bool:
    return any(difference.place.startswith(place) for difference in case.differences)
