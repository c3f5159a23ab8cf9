"""The blast radius in a bank: which customers, transactions and money a release touched, from the journal.

A transaction counts once for each row that the release wrote and the ledger accepted: a hold and its capture
are two. Money is the sum of a transaction's debits; of a hold, and of what releases one, the sum held. A
customer is an account of the kinds in CUSTOMER_KINDS that is not one of FinFlow's own; its key is the
account's external reference, or its id where it has none.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from finflow.db.pool import acquired
from finflow.kernel import ids, money
from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.copy import read_legs
from finflow.rollout.checks_spec import moment
from finflow.rollout.ports import Impact
from finflow.shadow import impact_store as store

if TYPE_CHECKING:
    import asyncpg

    from finflow.db.pool import PoolConnection

# What a bank owes is whose it is: deposits. Its own books are of the other kinds.
CUSTOMER_KINDS: Final = ("liability",)
# Accounts that FinFlow opens for itself: positions of conversions and of settlement.
_OWN_REFERENCES: Final = ("fx:", "settlement:")
_BOOKED: Final = ("post", "capture", "reverse")
PAGE: Final = 1_000


class JournalBlastRadius:
    """The port BlastRadius over a bank's database. It reads alone."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", customer_kinds: Iterable[str] = CUSTOMER_KINDS
    ) -> None:
        self._pool = pool
        self._kinds = frozenset(customer_kinds)

    async def impact(self, release: str, since: str, until: str) -> Impact:
        """Totals between two RFC 3339 instants, the second not included. Raises moment_malformed."""
        asked = (release, parsed(since), parsed(until))
        async with acquired(self._pool) as connection:
            rows = await store.totals(connection, asked, sorted(self._kinds), _OWN_REFERENCES)
        doubled = {(row["currency"], row["exponent"]): int(row["doubled"]) for row in rows}
        customers, transactions = (sum(row[name] for row in rows) for name in ("customers", "transactions"))
        return Impact(customers, transactions, _decimals(doubled))

    async def listed(self, release: str, since: str, until: str) -> AsyncIterator[Mapping[str, Any]]:
        """One mapping for each transaction that the release did, oldest first."""
        asked = (release, parsed(since), parsed(until))
        async with (
            acquired(self._pool) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            async for rows in self._pages(connection, asked):
                by_place: dict[int, list[Any]] = {}
                for each in await store.entries(connection, _legs(rows)):
                    by_place.setdefault(each["place"], []).append(each)
                for place, row in enumerate(rows):
                    yield self._shown(row, by_place.get(place, []))

    async def _pages(
        self, connection: "PoolConnection", asked: tuple[str, datetime, datetime]
    ) -> AsyncIterator[list[Any]]:
        page: list[Any] = []
        async for row in store.found(connection, *asked, PAGE):
            page.append(row)
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    def _is_customer(self, account: Any) -> bool:
        own = (account["external_reference"] or "").startswith(_OWN_REFERENCES)
        return account["kind"] in self._kinds and not own

    def _shown(self, row: Any, entries: Sequence[Any]) -> Mapping[str, Any]:
        doubled: dict[tuple[str, int], int] = {}
        for each in entries:
            unit = each["currency"], each["exponent"]
            twice = 2 * max(each["amount"], 0) if each["booked"] else abs(each["held"])
            doubled[unit] = doubled.get(unit, 0) + twice
        ledger_no, at = row["ledger_no"], to_micros(row["recorded_at"])
        return {
            "transaction_id": ids.mint("txn", at, ledger_no, row["seq"]),
            "ledger_id": ids.mint("led", to_micros(row["ledger_created_at"]), ledger_no, 0),
            "seq": row["seq"],
            "recorded_at": row["recorded_at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "kind": row["kind"],
            "caller": row["caller"],
            "customers": sorted({_customer_key(each) for each in entries if self._is_customer(each)}),
            "money": _decimals(doubled),
        }


def parsed(text: str) -> datetime:
    """An RFC 3339 instant. Raises moment_malformed."""
    try:
        return moment(text)
    except ValueError as error:
        raise FinFlowError("moment_malformed", f"{error}.") from error


def _legs(rows: Sequence[Any]) -> store.Legs:
    """The entries of journal rows, as arrays; `place` is the row's place in the page."""
    named = [
        (row["ledger_no"], account_no, version, row["kind"] in _BOOKED, place)
        for place, row in enumerate(rows)
        for account_no, version in read_legs(row["legs"])
    ]
    ledgers, accounts, versions, booked, places = zip(*named, strict=True) if named else ((),) * 5
    return list(ledgers), list(accounts), list(versions), list(booked), list(places)


def _customer_key(account: Any) -> str:
    created = to_micros(account["created_at"])
    return account["external_reference"] or ids.mint(
        "acc", created, account["ledger_no"], account["account_no"]
    )


def _decimals(doubled: Mapping[tuple[str, int], int]) -> dict[str, str]:
    """Money by currency; where ledgers declared one code with several exponents, with the finest."""
    finest: dict[str, int] = {}
    for currency, exponent in doubled:
        finest[currency] = max(exponent, finest.get(currency, 0))
    sums = dict.fromkeys(sorted(finest), 0)
    for (currency, exponent), twice in doubled.items():
        sums[currency] += twice // 2 * 10 ** (finest[currency] - exponent)
    return {currency: money.to_text(minor, finest[currency]) for currency, minor in sums.items()}
