"""The ledger's invariants as a check of a rollout: what must hold whatever a release does.

The head is where the journal ends; `seq` is dense; no idempotency key stands twice; every row's entries are
there, follow the entry before them and sum to zero per currency; the trial balance is zero; no account is
below its floor. A look reads what was written since the last one, `rows_per_look` rows at most, and the
trial balance of ledgers with so many accounts in all as ACCOUNTS_PER_LOOK says; that of the others at the
first look and at every 60th. What it could not get through makes it INCONCLUSIVE. The first look begins with
the newest rows; `whole` reads all history.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finflow.db.pool import acquired, open_pool
from finflow.kernel import ids
from finflow.kernel.clock import to_micros
from finflow.ledger.copy import read_legs
from finflow.rollout.checks.guarded import Guarded, judged, some
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.shadow import invariants_store as store

if TYPE_CHECKING:
    from finflow.db.pool import PoolConnection

ACCOUNTS_PER_LOOK: Final = 20_000
WHOLE_EVERY: Final = 60
_PART: Final = 10_000
_MAX_FOUND: Final = 50


class Broken(msgspec.Struct, frozen=True):
    """One thing that does not hold: which rule, in which ledger, at which seq or account."""

    rule: str
    ledger_no: int
    words: str
    seq: int | None = None
    account_no: int | None = None


class Looked(msgspec.Struct):
    """How far one look has come: what it found, how many rows it read and how many it left."""

    broken: list[Broken]
    ledgers: int = 0
    rows: int = 0
    left: int = 0
    accounts: int = 0


class Watch:
    """Reads the books from look to look; `whole` from the first row on, else from the newest rows on."""

    def __init__(self, rows_per_look: int, *, whole: bool = False) -> None:
        self._rows_per_look = rows_per_look
        self._whole = whole
        self._seen: dict[int, int] = {}
        self._looks = 0

    async def look(self, connection: "PoolConnection") -> Looked:
        """Within a transaction that sees one snapshot. What was found broken is looked at again."""
        found = Looked([])
        seen = dict(self._seen)
        if not await store.keys_are_unique(connection):
            found.broken.append(Broken("unique_keys", 0, "the unique index on the journal's keys is gone"))
        for ledger_no in await store.headless(connection):
            found.broken.append(Broken("head", ledger_no, "the ledger has no head"))
        for head in await store.heads(connection):
            found.ledgers += 1
            await self._look_at(connection, head, found, seen)
        if not found.broken:
            self._seen = seen
            self._looks += 1
        return found

    async def _look_at(
        self, connection: "PoolConnection", head: Any, found: Looked, seen: dict[int, int]
    ) -> None:
        ledger_no, last, end = head["ledger_no"], head["last"], max(head["seq"], head["last"])
        if head["seq"] != last:
            words = f"the head is at {head['seq']} and the journal ends at {last}"
            found.broken.append(Broken("head", ledger_no, words, min(head["seq"], last)))
        low = seen.get(ledger_no, 0 if self._whole else max(0, end - self._rows_per_look))
        first = ledger_no not in seen
        touched: set[int] = set()
        while low < end and found.rows < self._rows_per_look and len(found.broken) < _MAX_FOUND:
            high = min(end, low + _PART, low + self._rows_per_look - found.rows)
            touched |= await _part(connection, ledger_no, low, high, found)
            found.rows += high - low
            low = high
        found.left += end - low
        seen[ledger_no] = low
        found.accounts += head["account_no"]
        within = found.accounts <= ACCOUNTS_PER_LOOK
        everything = first or within or self._looks % WHOLE_EVERY == 0
        await _balances(connection, ledger_no, None if everything else sorted(touched), found)


async def _part(connection: "PoolConnection", ledger_no: int, low: int, high: int, found: Looked) -> set[int]:
    """Look at the rows of (low, high]; answers the accounts that they touch."""
    gap = await store.first_gap(connection, ledger_no, low, high)
    if gap is not None:
        found.broken.append(Broken("seq_dense", ledger_no, f"seq {gap} is missing or there twice", gap))
    for row in await store.keys_twice(connection, ledger_no, low, high):
        words = f"seq {row['seq']} and {row['again']} have one idempotency key"
        found.broken.append(Broken("unique_keys", ledger_no, words, row["again"]))
    named = [
        (row["seq"], account_no, version)
        for row in await store.legs(connection, ledger_no, low, high)
        for account_no, version in read_legs(row["legs"])
        # Version 0 is the account itself, opened or changed.
        if version
    ]
    if not named:
        return set()
    seqs, accounts, versions = (list(column) for column in zip(*named, strict=True))
    for row in await store.wrong_entries(connection, ledger_no, (seqs, accounts, versions)):
        found.broken.append(_wrong_entry(ledger_no, row))
    return set(accounts)


def _wrong_entry(ledger_no: int, row: Any) -> Broken:
    if row["account_no"] is None:
        return Broken("balanced", ledger_no, f"seq {row['seq']}: the {row['what']}", row["seq"])
    words = f"seq {row['seq']}: version {row['version']} of account {row['account_no']} is {row['what']}"
    return Broken("entries", ledger_no, words, row["seq"], row["account_no"])


async def _balances(
    connection: "PoolConnection", ledger_no: int, account_nos: list[int] | None, found: Looked
) -> None:
    """Floors of these accounts; of all of them, and the trial balance, where there are none named."""
    if account_nos is None:
        for row in await store.trial_balance(connection, ledger_no):
            words = f"{row['currency']} is off by {row['posted']} posted and {row['pending']} pending"
            found.broken.append(Broken("trial_balance", ledger_no, words))
    for row in await store.below_floor(connection, ledger_no, account_nos):
        account_no = row["account_no"]
        words = f"account {account_no} is below its floor since seq {row['seq']}"
        found.broken.append(Broken("floor", ledger_no, words, row["seq"], account_no))


class InvariantsCheck(Guarded):
    """The check: a connection for each look, so that there is nothing to close and nothing to go stale."""

    def __init__(
        self, url: str, gate: str, rows_per_look: int, timeout_s: float, *, whole: bool = False
    ) -> None:
        super().__init__(gate, self._look, timeout_s)
        self._url = url
        self._gate = gate
        self._timeout_s = timeout_s
        self._watch = Watch(rows_per_look, whole=whole)

    async def _look(self) -> Judgement:
        async with self._snapshot() as connection:
            looked = await self._watch.look(connection)
            if looked.broken:
                return await self._failed(connection, looked)
        numbers = {"rows": looked.rows, "rows_left": looked.left, "broken": 0}
        if not looked.ledgers:
            return judged(
                self._gate, Verdict.INCONCLUSIVE, "There is no ledger: nothing was looked at.", numbers
            )
        if looked.left:
            words = f"{looked.rows} rows hold; {looked.left} are not looked at yet."
            return judged(self._gate, Verdict.INCONCLUSIVE, words, numbers)
        return judged(self._gate, Verdict.PASS, f"The books are sound; {looked.rows} new rows.", numbers)

    async def _failed(self, connection: "PoolConnection", looked: Looked) -> Judgement:
        names = await _ledger_ids(connection, [each.ledger_no for each in looked.broken])
        listed = [f"{names.get(each.ledger_no, 'journal')}: {each.words}" for each in looked.broken]
        first = looked.broken[0]
        numbers: dict[str, float | int | str] = {
            "broken": len(looked.broken),
            "rule": first.rule,
            "ledger_id": names.get(first.ledger_no, ""),
        }
        if first.seq is not None:
            numbers["seq"] = first.seq
        if first.account_no is not None:
            numbers["account_no"] = first.account_no
        return judged(self._gate, Verdict.FAIL, f"{some(listed, 3)}.", numbers)

    @asynccontextmanager
    async def _snapshot(self) -> "AsyncIterator[PoolConnection]":
        pool = await open_pool(
            self._url, max_size=1, application_name="finflow check", command_timeout_s=self._timeout_s
        )
        try:
            async with (
                acquired(pool) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                yield connection
        finally:
            pool.terminate()


_LEDGERS: Final = "select ledger_no, created_at from ledgers where ledger_no = any($1::integer[])"


async def _ledger_ids(connection: "PoolConnection", ledger_nos: list[int]) -> dict[int, str]:
    rows = await connection.fetch(_LEDGERS, ledger_nos)
    return {row[0]: ids.mint("led", to_micros(row[1]), row[0], 0) for row in rows}
