"""Participants come onto a ledger: a row, and two accounts in each currency that they settle in.

An account's opening is keyed by the participant's number, so whoever registers twice, or is killed in
between, opens it once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from finflow.db.pool import acquired
from finflow.kernel import ids
from finflow.kernel.clock import Clock
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import AccountKind, OpenAccount, Request
from finflow.settlement import participant_store
from finflow.settlement.books import Books
from finflow.settlement.database import transaction
from finflow.settlement.orders import CALLER
from finflow.settlement.participant_store import MAX_PARTICIPANTS, Participant

if TYPE_CHECKING:
    import asyncpg

Kind = Literal["member", "ledger", "rail"]
Role = Literal["position", "settlement"]
_KINDS: Final[dict[Role, AccountKind]] = {"position": "liability", "settlement": "asset"}


class NewParticipant(NamedTuple):
    """Who is to settle, in which currencies. `peer_ledger_id` is for another ledger of FinFlow.

    `overdraft_limit` is that of a member's position account, `settlement_limit` how far its settlement
    account may be overdrawn by net positions; None is without limit.
    """

    name: str
    kind: Kind
    currencies: Sequence[str]
    peer_ledger_id: str | None = None
    overdraft_limit: str | None = "0"
    settlement_limit: str | None = None


class Register:
    """Adds participants. `all_ledgers` knows the peer's ledger too, `ledgers` only the caller's."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        all_ledgers: Books,
        ledgers: Books,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._all = all_ledgers
        self._ledgers = ledgers
        self._clock = clock

    async def add(self, ledger_id: str, ledger_no: int, new: NewParticipant) -> Participant:
        """Register, or add currencies to one that is registered as the same."""
        if not 1 <= len(new.name) <= 140 or not new.name.isprintable() or new.name == "ledger":
            raise FinFlowError("request_malformed", "a name has 1 to 140 printable characters", "name")
        peer_no = await self._peer_no(ledger_no, new)
        async with transaction(self._pool) as connection:
            await participant_store.add_participant(
                connection, ledger_no, new.name, new.kind, peer_no, self._clock()
            )
        found = await self._find(ledger_no, new.name)
        if found is None or (found.kind, found.peer_ledger_no) != (new.kind, peer_no):
            raise await self._conflict(ledger_no, new.name)
        for currency in new.currencies:
            if currency not in found.accounts:
                await self._open(ledger_id, found, currency, new)
        added = await self._find(ledger_no, new.name)
        assert added is not None, "participants are never removed"
        return added

    async def _peer_no(self, ledger_no: int, new: NewParticipant) -> int | None:
        if (new.kind == "ledger") != (new.peer_ledger_id is not None):
            raise FinFlowError("request_malformed", "a ledger has a peer, others have none", "peer_ledger_id")
        if new.peer_ledger_id is None:
            return None
        await self._all.ledger(new.peer_ledger_id)
        place = ids.parse("led", new.peer_ledger_id)
        assert place is not None, "the directory found it"
        if place.ledger_no == ledger_no:
            raise FinFlowError("obligation_to_self", param="peer_ledger_id")
        return place.ledger_no

    async def _find(self, ledger_no: int, name: str) -> Participant | None:
        async with acquired(self._pool) as connection:
            found = await participant_store.read_participants(connection, ledger_no)
        return next((each for each in found if each.name == name), None)

    async def _conflict(self, ledger_no: int, name: str) -> FinFlowError:
        async with acquired(self._pool) as connection:
            found = await participant_store.read_participants(connection, ledger_no)
        if len(found) >= MAX_PARTICIPANTS:
            return FinFlowError("too_many_participants")
        return FinFlowError("participant_conflict", f"{name!r}", "name")

    async def _open(self, ledger_id: str, found: Participant, currency: str, new: NewParticipant) -> None:
        numbers = []
        for role, kind in _KINDS.items():
            limit = new.settlement_limit if role == "settlement" else new.overdraft_limit
            if role == "position" and new.kind != "member":
                limit = None
            reference = f"settlement:{role}:{found.participant_no}:{currency}"
            command = OpenAccount(currency, kind, limit, None, reference)
            # No client can send this key: the API takes printable ASCII only. A repetition finds it taken.
            [record] = await self._ledgers.submit(ledger_id, [Request(f"§{reference}", command, CALLER)])
            if record.code is not None or record.account is None:
                raise FinFlowError(record.code or "internal", f"the account {reference} cannot be opened")
            numbers.append(record.account.account_no)
        async with transaction(self._pool) as connection:
            await participant_store.add_accounts(
                connection, found.ledger_no, found.participant_no, currency, (numbers[0], numbers[1])
            )
