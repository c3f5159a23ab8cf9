"""The bank's own accounts that conversions go through: opened when they are first needed, found ever after.

They are ordinary accounts of the ledger, known by their external reference. A bank that wants a limit on its
position opens the position account itself before the first conversion, or changes its limits later.
"""

import asyncio
from typing import Final, Literal, Protocol
from weakref import WeakValueDictionary

from finflow.kernel.errors import FinFlowError
from finflow.ledger.book import Account, Record
from finflow.ledger.commands import AccountKind, OpenAccount, Request
from finflow.ledger.views import LedgerView

Role = Literal["position", "spread", "rounding"]
_KINDS: Final[dict[Role, AccountKind]] = {"position": "equity", "spread": "income", "rounding": "income"}
_CALLER: Final = "finflow:fx"
MAX_KNOWN: Final = 10_000


def reference_of(role: Role, currency: str) -> str:
    """The external reference of an account of the bank's: `fx:position:EUR`."""
    return f"fx:{role}:{currency}"


class Ledgers(Protocol):
    """What conversions need of the ledgers that somebody may use."""

    async def ledger(self, ledger_id: str) -> LedgerView: ...
    async def ledger_holding(self, prefix: str, resource_id: str) -> LedgerView: ...
    async def accounts_by_reference(self, ledger_id: str, external_reference: str) -> list[Account]: ...
    async def submit(self, ledger_id: str, requests: list[Request], atomic: bool = False) -> list[Record]: ...


class KnownAccounts:
    """Ids of the bank's own accounts, by ledger and reference, for all of a process. They never change."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], str] = {}
        self._looking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def looking(self, ledger_id: str, reference: str) -> asyncio.Lock:
        """One at a time looks for an account and opens it: the first conversions all need it at once."""
        return self._looking.setdefault((ledger_id, reference), asyncio.Lock())

    def keep(self, ledger_id: str, reference: str, account_id: str) -> None:
        if len(self.ids) >= MAX_KNOWN:
            self.ids.clear()
        self.ids[ledger_id, reference] = account_id


class HouseAccounts:
    """The bank's own accounts of the ledgers that a caller may use."""

    def __init__(self, ledgers: Ledgers, known: KnownAccounts) -> None:
        self._ledger = ledgers
        self._known = known

    async def find(self, ledger_id: str, role: Role, currency: str) -> str:
        """The id of an account, which is opened now if the ledger has none with its reference."""
        reference = reference_of(role, currency)
        known = self._known.ids.get((ledger_id, reference))
        if known is not None:
            return known
        async with self._known.looking(ledger_id, reference):
            known = self._known.ids.get((ledger_id, reference)) or await self._read(ledger_id, reference)
            known = known or await self._open(ledger_id, role, currency)
            self._known.keep(ledger_id, reference, known)
        return known

    async def _read(self, ledger_id: str, reference: str) -> str | None:
        found = await self._ledger.accounts_by_reference(ledger_id, reference)
        return found[0].account_id if found else None

    async def _open(self, ledger_id: str, role: Role, currency: str) -> str:
        reference = reference_of(role, currency)
        command = OpenAccount(currency, _KINDS[role], None, None, reference)
        # No client can send this key: the API takes printable ASCII only. Whoever comes second replays it.
        [record] = await self._ledger.submit(ledger_id, [Request(f"§{reference}", command, _CALLER)])
        opened = await self._read(ledger_id, reference)
        if opened is None:
            raise FinFlowError(record.code or "internal", f"the account {reference} cannot be opened")
        return opened
