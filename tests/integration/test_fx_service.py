"""Quotes in the ledger's order: in one batch, in groups, with a small memory, and a long random story."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from itertools import count

import pytest

from finflow.fx.service import Exchange, FxService, QuoteDraft, RateDraft
from finflow.fx.views import QuoteView
from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.ledger import decider
from finflow.ledger.commands import PostTransaction, Request, VoidPending
from oracles.service import ENTRY_SUMS, Desk, audit, desk, second_desk

DAY_US = 86_400_000_000
RATES = {
    ("EUR", "USD"): "1.083517",
    ("EUR", "JPY"): "169.31",
    ("USD", "KWD"): "0.307",
    ("EUR", "CLF"): "0.0281",
}
EXPONENTS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3, "CLF": 4}
SUMS = """
select a.currency, sum(e.amount) from entries e join accounts a using (ledger_no, account_no) group by 1
"""


class Market:
    """A desk, its exchange, and an account without a floor in each currency."""

    def __init__(self, one: Desk) -> None:
        self.one = one
        self.fx: Exchange = FxService(one.pool, one.clock).of(one.service)
        self.accounts: dict[str, str] = {}

    async def set_up(self) -> "Market":
        at = to_datetime(self.one.clock.at)
        drafts = [RateDraft(*pair, rate, "test", at) for pair, rate in RATES.items()]
        await self.fx.add_rates(self.one.ledger_id, drafts)
        for currency in EXPONENTS:
            [self.accounts[currency]] = await self.one.open(currency=currency, kind="liability")
        return self

    async def quote(
        self,
        sell: str = "EUR",
        buy: str = "USD",
        amount: str = "10",
        spread: str = "0.01",
        valid_for_s: int = 60,
    ) -> QuoteView:
        draft = QuoteDraft(sell, buy, "sell", amount, spread, valid_for_s)
        return (await self.fx.quote(self.one.ledger_id, draft, None, "test"))[0]

    async def command(self, quote: QuoteView) -> PostTransaction:
        source, to = self.accounts[quote.sell_currency], self.accounts[quote.buy_currency]
        return (await self.fx.conversion(quote.quote_id, source, to))[1]


@asynccontextmanager
async def market(url: str) -> AsyncIterator[Market]:
    async with desk(url) as one:
        yield await Market(one).set_up()


async def test_the_first_conversions_of_a_currency_come_all_at_once(database_url: str) -> None:
    async with market(database_url) as one:
        quotes = [await one.quote(amount=f"{number}") for number in range(1, 21)]
        commands = await asyncio.gather(*(one.command(quote) for quote in quotes))
        assert [await one.one.codes(command) for command in commands] == [[None]] * 20


async def test_in_one_batch_the_first_use_counts(database_url: str) -> None:
    async with market(database_url) as m:
        command = await m.command(await m.quote())
        assert await m.one.codes(command, command, command) == [None, "quote_used", "quote_used"]
        assert await m.one.codes(command) == ["quote_used"]


async def test_a_refused_group_leaves_its_quote(database_url: str) -> None:
    async with market(database_url) as m:
        command = await m.command(await m.quote())
        assert await m.one.codes(command, VoidPending("txn_x"), atomic=True) == [
            "group_refused", "transaction_unknown",
        ]  # fmt: skip
        assert await m.one.codes(command, command, atomic=True) == ["group_refused", "quote_used"]
        assert await m.one.codes(command, atomic=True) == [None]


async def test_a_ledger_with_a_small_memory_remembers_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decider, "MAX_BOOK_TARGETS", 2)
    async with market(database_url) as m:
        commands = [await m.command(await m.quote()) for _ in range(6)]
        for command in commands:
            assert await m.one.codes(command) == [None]
        assert await m.one.codes(*commands) == ["quote_used"] * 6


async def test_the_last_moment_of_a_quote_is_before_its_end(database_url: str) -> None:
    async with market(database_url) as m:
        first, second = [await m.command(await m.quote(valid_for_s=60)) for _ in range(2)]
        m.one.clock.at += 60_000_000 - 1
        assert await m.one.codes(first) == [None]
        m.one.clock.at += 1
        [record] = await m.one.service.submit(m.one.ledger_id, [Request("late", second, "test")])
        assert record.code == "quote_expired"
        # The ledger's clock never runs back, so an expired quote stays so; a replay answers as before.
        m.one.clock.at -= 30_000_000
        assert await m.one.codes(second) == ["quote_expired"]
        [again] = await m.one.service.submit(m.one.ledger_id, [Request("late", second, "test")])
        assert (again.code, again.replayed, again.seq) == ("quote_expired", True, record.seq)


async def test_quotes_of_two_ledgers_do_not_meet(database_url: str) -> None:
    async with market(database_url) as m, desk(database_url) as other:
        quote = await m.quote()
        stranger = await Market(other).set_up()
        command = await m.command(quote)
        [record] = await other.service.submit(other.ledger_id, [Request("x", command, "test")])
        assert record.code == "account_unknown"
        assert await m.one.codes(command) == [None]
        mine = await stranger.quote()
        assert await other.codes(await stranger.command(mine)) == [None]
        m.one.clock.at += DAY_US
        with pytest.raises(FinFlowError, match="rate_stale"):
            await m.quote()


def expected(sell: str, buy: str, amount: Decimal, spread: Decimal) -> tuple[Decimal, Decimal]:
    """What the customer gets and what the position gives, by decimals and the ECB's way."""
    unit = Decimal(1).scaleb(-EXPONENTS[buy])
    to_euro = {"EUR": Decimal(1)} | {b: 1 / Decimal(r) for (a, b), r in RATES.items() if a == "EUR"}
    worth = amount * to_euro[sell] / to_euro[buy]
    return (worth * (1 - spread)).quantize(unit, ROUND_DOWN), worth.quantize(unit, ROUND_HALF_EVEN)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_random_story_told_by_two_programs(database_url: str, seed: int) -> None:
    """Quotes used, used again, expired, refused for want of money; every currency sums to zero throughout."""
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    async with (
        market(database_url) as m,
        second_desk(database_url, m.one.ledger_id, "x", m.one.clock) as other,
    ):
        [poor] = await m.one.open(currency="EUR", kind="liability", overdraft_limit="0")
        held = dict.fromkeys(EXPONENTS, Decimal(0))
        positions = dict.fromkeys(EXPONENTS, Decimal(0))
        quotes: list[tuple[QuoteView, Decimal, Decimal]] = []
        used: set[str] = set()
        keys = (f"s{number}" for number in count())
        for step in range(150):
            if not quotes or chance.random() < 0.5:
                sell, buy = chance.sample(["EUR", "USD", "JPY", "CLF"], 2)
                amount = Decimal(chance.randrange(1, 10**6)).scaleb(-EXPONENTS[sell])
                spread = chance.choice(["0", "0.000001", "0.0125"])
                got, given = expected(sell, buy, amount, Decimal(spread))
                if got == 0:
                    continue
                quote = await m.quote(sell, buy, str(amount), spread, chance.choice([5, 600]))
                quotes.append((quote, got, given))
                continue
            quote, got, given = chance.choice(quotes)
            m.one.clock.at += chance.choice([0, 0, 1_000_000])
            source = poor if quote.sell_currency == "EUR" and chance.random() < 0.3 else None
            account = source or m.accounts[quote.sell_currency]
            _, command = await m.fx.conversion(quote.quote_id, account, m.accounts[quote.buy_currency])
            who = chance.choice([m.one, other])
            [record] = await who.service.submit(m.one.ledger_id, [Request(next(keys), command, "test")])
            late = m.one.clock.at >= quote.expires_at.timestamp() * 1_000_000
            if quote.quote_id in used:
                assert record.code == "quote_used"
            elif late:
                assert record.code == "quote_expired"
            elif source:
                assert record.code == "exceeds_available"
            else:
                assert record.code is None, step
                used.add(quote.quote_id)
                sold = Decimal(quote.sell_amount)
                held[quote.sell_currency] -= sold
                positions[quote.sell_currency] += sold
                held[quote.buy_currency] += got
                positions[quote.buy_currency] -= given
            assert all(total == 0 for _, total in await m.one.rows(SUMS))
        assert len(used) > 20
        for currency, account_id in m.accounts.items():
            assert Decimal((await m.one.service.balance(account_id)).balance) == held[currency]
        for each in (await m.fx.positions(m.one.ledger_id)).positions:
            assert Decimal(each.position) == positions[each.currency]
            income = Decimal(each.spread_income) + Decimal(each.rounding_income)
            assert held[each.currency] + positions[each.currency] + income == 0
        await audit(await m.one.rows(ENTRY_SUMS))
