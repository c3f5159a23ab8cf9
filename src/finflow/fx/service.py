"""The shell of foreign exchange: rates in, quotes out, and the ledger's command that a conversion is.

A conversion itself is not done here: it is one transaction, decided by the ledger in its own order, which
also decides whether its quote was used before or has expired. There is no other record of it.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec

from finflow.fx import model, store, views
from finflow.fx.gathered import LedgerStatements, Newest, Reading
from finflow.fx.house import HouseAccounts, KnownAccounts, Ledgers, Role
from finflow.fx.model import FixedSide, Found
from finflow.fx.store import GivenRate, NewQuote, PricedQuote
from finflow.kernel import ids, money
from finflow.kernel.clock import Clock, system_clock, to_datetime, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import store as ledger_store
from finflow.ledger.book import Refusal
from finflow.ledger.commands import Direction, EntryLine, PostTransaction, QuoteUse
from finflow.ledger.guards import amount_refusal
from finflow.ledger.lists import Page, Span
from finflow.ledger.views import LedgerView

MAX_LEDGERS: Final = 10_000
RATE_VALID_FOR_US: Final = 86_400_000_000
# Where the entries of a conversion stand that are on accounts which its caller named.
CUSTOMER_ENTRIES: Final = {"entries[0]": "from_account_id", "entries[3]": "to_account_id"}


class RateDraft(msgspec.Struct, frozen=True):
    """A rate as somebody pushes it; times are aware, `valid_until` a day after `observed_at` by default."""

    base: str
    quote: str
    rate: str
    source: str
    observed_at: datetime
    valid_until: datetime | None = None


class QuoteDraft(NamedTuple):
    """What a quote is asked for: `amount` is of the currency on the side that is fixed."""

    sell_currency: str
    buy_currency: str
    fixed: FixedSide
    amount: str
    spread: str
    valid_for_s: int


class FxService:
    """What a process has one of for foreign exchange. Callers come in through `of`."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        clock: Clock = system_clock,
        reading: Reading | None = None,
    ) -> None:
        self.clock = clock
        self.house = KnownAccounts()
        self._pool = pool
        self._reading = reading
        self._statements: dict[str, LedgerStatements] = {}

    def of(self, ledgers: Ledgers) -> "Exchange":
        """Rates, quotes and conversions on these ledgers, and on no others."""
        return Exchange(self, ledgers)

    def statements(self, ledger: LedgerView) -> LedgerStatements:
        """The statements of a ledger that was found among those that its caller may use."""
        known = self._statements.get(ledger.ledger_id)
        if known is None:
            if len(self._statements) >= MAX_LEDGERS:
                self._statements.clear()
            known = LedgerStatements(ledger, self._pool, self._reading, self.clock)
            self._statements[ledger.ledger_id] = known
        return known


class Exchange:
    """Rates, quotes and conversions on somebody's ledgers. Ids and decimal strings in, views out.

    Raises ledger_unknown for other ledgers, quote_unknown for quotes of other ledgers.
    """

    def __init__(self, fx: FxService, ledgers: Ledgers) -> None:
        self._fx = fx
        self._ledgers = ledgers
        self._house = HouseAccounts(ledgers, fx.house)

    # --- rates ---

    async def add_rates(self, ledger_id: str, drafts: Sequence[RateDraft]) -> list[views.RateView]:
        """Keep rates, all or none; one that is known already is answered as it stands.

        Raises rate_malformed, same_currency, currency_unknown, validity_malformed, rate_conflict.
        """
        on = await self._on(ledger_id)
        exponents = await _exponents(on, {code for d in drafts for code in (d.base, d.quote)})
        given = [_given(draft, index, exponents) for index, draft in enumerate(drafts)]
        async with on.writing() as connection, connection.transaction():
            stored = await store.add_rates(connection, on.ledger_no, given, self._fx.clock())
            for index, (each, known) in enumerate(zip(given, stored, strict=True)):
                if (each.rate, each.valid_until) != (known.rate, known.valid_until):
                    detail = f"{known.source} gave {known.rate.text} for {known.base}/{known.quote} before"
                    raise FinFlowError("rate_conflict", detail, f"rates[{index}]")
        return [views.show_rate(known, ledger_id, on.ledger_no) for known in stored]

    async def rates(self, ledger_id: str, base: str, quote: str, span: Span) -> Page[views.RateView]:
        """A page of a pair's rates, whichever way round they were given, the newest first."""
        on = await self._on(ledger_id)
        async with on.reading() as connection:
            page = await store.read_rates(connection, on.ledger_no, model.pair(base, quote), span)
        return Page([views.show_rate(known, ledger_id, on.ledger_no) for known in page.items], page.next)

    async def rate(self, ledger_id: str, base: str, quote: str, at: int | None) -> views.FoundRateView:
        """The rate that holds at a moment (µs), now by default. Raises pair_unknown, rate_stale."""
        on = await self._on(ledger_id)
        if base == quote:
            raise FinFlowError("same_currency", f"from {base} to {quote}", "quote")
        at = self._fx.clock() if at is None else at
        async with on.reading() as connection:
            pairs = model.pairs_between(base, quote)
            newest = await store.read_newest(connection, on.ledger_no, pairs, at)
        found = _rate_of(base, quote, newest, at)
        return views.show_found(base, quote, found, at, ledger_id, on.ledger_no)

    # --- quotes ---

    async def quote(
        self, ledger_id: str, draft: QuoteDraft, key: str | None, caller: str
    ) -> tuple[views.QuoteView, bool]:
        """A quote made now, or the one that was made under this key, and whether it is that one.

        Raises same_currency, currency_unknown, amount_malformed and the like, spread_malformed, pair_unknown,
        rate_stale, converts_to_zero, idempotency_conflict.
        """
        on = await self._on(ledger_id)
        exponents = await _exponents(on, {draft.sell_currency, draft.buy_currency})
        new = _new_quote(draft, exponents, key, caller)
        if key is not None and (known := await self._made_before(on, new)):
            return known, True
        now, newest = await on.rates_now.ask((draft.sell_currency, draft.buy_currency))
        found = _rate_of(draft.sell_currency, draft.buy_currency, newest, now)
        priced = model.price(new.terms(found.ratio))
        if isinstance(priced, Refusal):
            raise FinFlowError(priced.code, param=f"{draft.fixed}_amount")
        quote = PricedQuote(new, now, found, priced)
        number = await on.add_quote.ask(quote)
        if number is not None:
            return self._show(quote.row(on.ledger_no, number), ledger_id), False
        # Another request under the same key was faster.
        made = await self._made_before(on, new)
        assert made is not None, "only a key that is taken keeps a quote out"
        return made, True

    async def read_quote(self, quote_id: str) -> views.QuoteView:
        """A quote, and whether it is open, used or expired. Raises quote_unknown."""
        ledger_id, row = await self._row(quote_id)
        return self._show(row, ledger_id)

    async def _made_before(self, on: LedgerStatements, new: NewQuote) -> views.QuoteView | None:
        async with on.reading() as connection:
            row = await store.read_quote_by_key(connection, on.ledger_no, new.key or "")
        if row is not None and row["request"] != new.request:
            raise FinFlowError("idempotency_conflict", param="Idempotency-Key")
        return None if row is None else self._show(row, on.ledger_id)

    def _show(self, row: Any, ledger_id: str) -> views.QuoteView:
        return views.show_quote(row, store.rate_from_row(row), ledger_id, self._fx.clock())

    async def _row(self, quote_id: str) -> tuple[str, Any]:
        try:
            ledger = await self._ledgers.ledger_holding("fxq", quote_id)
        except FinFlowError as error:
            if error.kind.code != "resource_unknown":
                raise
            raise FinFlowError("quote_unknown", f"no quote {quote_id[:40]}", "quote_id") from error
        place = ids.parse("fxq", quote_id)
        assert place is not None, "an id that leads to a ledger is one"
        row = await self._fx.statements(ledger).quote.ask(place.number)
        # The number alone could be guessed; the whole id was given to somebody.
        if row is None or views.quote_id(row) != quote_id:
            raise FinFlowError("quote_unknown", f"no quote {quote_id}", "quote_id")
        return ledger.ledger_id, row

    # --- conversions ---

    async def conversion(
        self, quote_id: str, from_account_id: str, to_account_id: str
    ) -> tuple[str, PostTransaction]:
        """The ledger and the command that converts by this quote; the same whenever it is asked for.

        Raises quote_unknown. Whether the quote is used or expired is the ledger's to decide, in its order.
        """
        ledger_id, row = await self._row(quote_id)
        sell = partial(_line, currency=row["sell_currency"], exponent=row["sell_exponent"])
        buy = partial(_line, currency=row["buy_currency"], exponent=row["buy_exponent"])
        bought_from = await self._house.find(ledger_id, "position", row["sell_currency"])
        sold_from = await self._house.find(ledger_id, "position", row["buy_currency"])
        lines = [
            sell(from_account_id, "debit", row["sell_minor"]),
            sell(bought_from, "credit", row["sell_minor"]),
            buy(sold_from, "debit", row["fair_minor"]),
            buy(to_account_id, "credit", row["buy_minor"]),
        ]
        rounding_minor = row["fair_minor"] - row["buy_minor"] - row["spread_minor"]
        incomes: tuple[tuple[Role, int], ...] = (
            ("spread", row["spread_minor"]),
            ("rounding", rounding_minor),
        )
        for role, minor in incomes:
            if minor:
                account_id = await self._house.find(ledger_id, role, row["buy_currency"])
                lines.append(buy(account_id, "credit", minor))
        metadata = {
            "fx_rate": store.rate_from_row(row).text,
            "fx_spread": model.decimal_text(row["spread_ppm"], 6),
        }
        use = QuoteUse(row["quote_no"], row["expires_at"])
        return ledger_id, PostTransaction(lines, reference=quote_id, metadata=metadata, quote=use)

    async def positions(self, ledger_id: str) -> views.PositionsView:
        """What conversions left on the bank's own accounts, by currency."""
        on = await self._on(ledger_id)
        async with on.reading() as connection:
            accounts = await store.read_house_accounts(connection, on.ledger_no)
        rows = [
            {
                "role": (account.external_reference or "").split(":")[1], "currency": account.currency,
                "exponent": account.exponent, "balance": account.balance, "account_id": account.account_id,
            }
            for account in accounts
        ]  # fmt: skip
        return views.show_positions(ledger_id, rows)

    async def _on(self, ledger_id: str) -> LedgerStatements:
        return self._fx.statements(await self._ledgers.ledger(ledger_id))


async def _exponents(on: LedgerStatements, currencies: set[str]) -> dict[str, int]:
    """Decimals of those currencies that ISO 4217 or the ledger knows."""
    known = {code: exponent for code in currencies if (exponent := money.exponent_of(code)) is not None}
    if len(known) < len(currencies):
        async with on.reading() as connection:
            assets = await ledger_store.find_assets(connection, on.ledger_no)
        known |= {code: assets[code] for code in currencies if code in assets}
    return known


def _rate_of(sell: str, buy: str, newest: Newest, at: int) -> Found:
    found = model.find_rate(sell, buy, newest, at)
    if isinstance(found, Refusal):
        raise FinFlowError(found.code, f"from {sell} to {buy} at {to_datetime(at).isoformat()}")
    return found


def _given(draft: RateDraft, index: int, exponents: dict[str, int]) -> GivenRate:
    where = f"rates[{index}]"
    _check_pair(draft.base, draft.quote, exponents, f"{where}.base", f"{where}.quote")
    rate = model.parse_rate(draft.rate)
    if rate is None:
        raise FinFlowError("rate_malformed", f"{draft.rate[:50]!r} is no rate", f"{where}.rate")
    observed_at = to_micros(draft.observed_at)
    valid_until = (
        observed_at + RATE_VALID_FOR_US if draft.valid_until is None else to_micros(draft.valid_until)
    )
    if valid_until <= observed_at:
        raise FinFlowError("validity_malformed", param=f"{where}.valid_until")
    return GivenRate(draft.base, draft.quote, rate, draft.source, observed_at, valid_until)


def _check_pair(one: str, other: str, exponents: dict[str, int], param: str, other_param: str) -> None:
    for code, place in ((one, param), (other, other_param)):
        if code not in exponents:
            raise FinFlowError("currency_unknown", param=place)
    if one == other:
        raise FinFlowError("same_currency", param=other_param)


def _new_quote(draft: QuoteDraft, exponents: dict[str, int], key: str | None, caller: str) -> NewQuote:
    sell, buy = draft.sell_currency, draft.buy_currency
    _check_pair(sell, buy, exponents, "sell_currency", "buy_currency")
    exponent = exponents[sell if draft.fixed == "sell" else buy]
    code = amount_refusal(draft.amount, exponent)
    if code is not None:
        raise FinFlowError(code, param=f"{draft.fixed}_amount")
    spread_ppm = model.parse_spread(draft.spread)
    if spread_ppm is None:
        raise FinFlowError("spread_malformed", param="spread")
    return NewQuote(
        sell, exponents[sell], buy, exponents[buy], draft.fixed, money.to_minor(draft.amount, exponent),
        spread_ppm, draft.valid_for_s, key, caller,
    )  # fmt: skip


def _line(account_id: str, direction: Direction, minor: int, currency: str, exponent: int) -> EntryLine:
    return EntryLine(account_id, direction, money.to_text(minor, exponent), currency)
