"""How settlement stands on the ledger: many commands at once, each under a key that is taken once."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Record
from finflow.ledger.commands import Request
from finflow.ledger.service import LedgerService
from finflow.ledger.views import LedgerView

# A little less than the ledger's largest batch: several of them overlap while they are written.
CHUNK: Final = 2_500
MAX_LEDGERS: Final = 10_000


class Books(Protocol):
    """What settlement needs of ledgers to book on them."""

    async def ledger(self, ledger_id: str) -> LedgerView: ...
    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]: ...


class Ledgers(Books, Protocol):
    """The ledgers that a caller may use, found by what is on them, too."""

    async def ledger_holding(self, prefix: str, resource_id: str) -> LedgerView: ...


class EveryLedger:
    """All ledgers, each through the door of the tenant whose it is. For settlement's own work.

    An order may lead to another tenant's ledger, and a worker goes on for whoever gave the order.
    """

    def __init__(self, service: LedgerService) -> None:
        self._service = service
        # Whose a ledger is never changes.
        self._owners: dict[str, str] = {}

    async def ledger(self, ledger_id: str) -> LedgerView:
        """One ledger, whosever it is. Raises ledger_unknown."""
        return await self._service.ledger(ledger_id)

    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]:
        """As TenantLedgers.submit."""
        owner = self._owners.get(ledger_id)
        if owner is None:
            found = await self._service.ledger(ledger_id)
            if len(self._owners) >= MAX_LEDGERS:
                self._owners.clear()
            owner = self._owners[ledger_id] = found.tenant_id
        return await self._service.of(owner).submit(ledger_id, requests, atomic)


async def book_all(ledgers: Books, ledger_id: str, requests: Sequence[Request]) -> list[Record]:
    """Book commands in parts that overlap; one record each, in order.

    Raises idempotency_in_progress if somebody is at one of them now, idempotency_conflict if a key is taken
    by another command, and what the ledger's writer raises.
    When it raises, some may be booked: the same commands again find them so.
    """
    parts = [list(requests[start : start + CHUNK]) for start in range(0, len(requests), CHUNK)]
    outcomes = await asyncio.gather(
        *(ledgers.submit(ledger_id, part) for part in parts), return_exceptions=True
    )
    records: list[Record] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        records += outcome
    for record in records:
        # The first passes by itself. The second says that two releases make other commands of one order.
        if record.code in ("idempotency_in_progress", "idempotency_conflict"):
            raise FinFlowError(record.code, f"another process is at {record.key}, or was with other content")
    return records


async def resolve_all(
    ledgers: Books, ledger_id: str, requests: Sequence[Request], clock: Clock, atomic: bool = False
) -> None:
    """Book commands that resolve transactions: posts, releases, reversals. Raises order_blocked.

    What the ledger refused before, as while an account was frozen, stands in its journal under its key, so it
    is asked again under a new one. That is safe here and only here: whatever the key, the ledger lets a
    transaction be resolved once.
    """
    records = await _book(ledgers, ledger_id, requests, atomic)
    refused = [n for n, record in enumerate(records) if record.code is not None and record.replayed]
    if refused:
        chosen = range(len(records)) if atomic else refused
        second = clock() // 1_000_000
        again = [msgspec.structs.replace(requests[n], key=f"{requests[n].key}:{second}") for n in chosen]
        for n, record in zip(chosen, await _book(ledgers, ledger_id, again, atomic), strict=True):
            records[n] = record
    blocked = [record for record in records if record.code is not None]
    if blocked:
        first = blocked[0]
        raise FinFlowError("order_blocked", f"{len(blocked)} of them, the first {first.key}: {first.code}")


async def _book(ledgers: Books, ledger_id: str, requests: Sequence[Request], atomic: bool) -> list[Record]:
    if atomic:
        return await ledgers.submit(ledger_id, list(requests), atomic=True)
    return await book_all(ledgers, ledger_id, requests)
