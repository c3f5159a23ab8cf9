"""SQL of participants, their accounts, and a ledger's cut-offs. Rows come and are never changed."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from finflow.kernel import ids
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.store import Connection
from finflow.settlement.calendars import DEFAULT_CUT_OFFS, CutOff

MAX_PARTICIPANTS: Final = 1_000

_ADD: Final = """
insert into settlement_participants (ledger_no, name, kind, peer_ledger_no, created_at)
select $1, $2, $3, $4, $5
 where (select count(*) from settlement_participants where ledger_no = $1) < $6
on conflict do nothing
"""
_ADD_ACCOUNTS: Final = """
insert into settlement_accounts (ledger_no, participant_no, currency, position_account, settlement_account)
values ($1, $2, $3, $4, $5) on conflict do nothing
"""
_PARTICIPANTS: Final = """
select p.*, s.currency, s.position_account, s.settlement_account, a.created_at as position_at,
       b.created_at as settlement_at, a.exponent
  from settlement_participants p
  left join settlement_accounts s using (ledger_no, participant_no)
  left join accounts a on a.ledger_no = s.ledger_no and a.account_no = s.position_account
  left join accounts b on b.ledger_no = s.ledger_no and b.account_no = s.settlement_account
 where p.ledger_no = $1 order by p.participant_no, s.currency
"""
_ADD_CUT_OFF: Final = """
insert into settlement_cut_offs (ledger_no, currency, at_time, zone, calendar, lag_days)
values ($1, $2, $3, $4, $5, $6)
on conflict (ledger_no, currency, at_time) do update
   set zone = excluded.zone, calendar = excluded.calendar, lag_days = excluded.lag_days
"""
_CUT_OFFS: Final = "select * from settlement_cut_offs where ledger_no = $1 and currency = $2 order by at_time"


class Accounts(NamedTuple):
    """A participant's accounts in one currency, by number and id: its position, and where it settles."""

    position_no: int
    position_id: str
    settlement_no: int
    settlement_id: str
    exponent: int


class Participant(NamedTuple):
    """A participant of a ledger with its accounts by currency; `peer_ledger_no` of one that is a ledger."""

    ledger_no: int
    participant_no: int
    name: str
    kind: str
    peer_ledger_no: int | None
    created_at: int
    accounts: dict[str, Accounts]

    @property
    def participant_id(self) -> str:
        return ids.mint("par", self.created_at, self.ledger_no, self.participant_no)


async def add_participant(
    connection: Connection, ledger_no: int, name: str, kind: str, peer_ledger_no: int | None, at: int
) -> None:
    """Keep a participant, unless its name or its peer is taken or there are too many."""
    await connection.execute(_ADD, ledger_no, name, kind, peer_ledger_no, to_datetime(at), MAX_PARTICIPANTS)


async def add_accounts(
    connection: Connection, ledger_no: int, participant_no: int, currency: str, numbers: tuple[int, int]
) -> None:
    """Keep the numbers of a participant's position and settlement accounts in a currency, if new."""
    await connection.execute(_ADD_ACCOUNTS, ledger_no, participant_no, currency, *numbers)


async def read_participants(connection: Connection, ledger_no: int) -> list[Participant]:
    """All participants of a ledger in the order of their registration."""
    found: dict[int, Participant] = {}
    for row in await connection.fetch(_PARTICIPANTS, ledger_no):
        participant = found.setdefault(row["participant_no"], _participant(row))
        if row["currency"] is not None:
            participant.accounts[row["currency"]] = _accounts(row)
    return list(found.values())


def _participant(row: Any) -> Participant:
    return Participant(
        row["ledger_no"], row["participant_no"], row["name"], row["kind"], row["peer_ledger_no"],
        to_micros(row["created_at"]), {},
    )  # fmt: skip


def _accounts(row: Any) -> Accounts:
    position, settlement = row["position_account"], row["settlement_account"]
    return Accounts(
        position,
        ids.mint("acc", to_micros(row["position_at"]), row["ledger_no"], position),
        settlement,
        ids.mint("acc", to_micros(row["settlement_at"]), row["ledger_no"], settlement),
        row["exponent"],
    )


async def add_cut_off(connection: Connection, ledger_no: int, cut_off: CutOff) -> None:
    """Keep a cut-off; another one of the same currency and time is replaced."""
    await connection.execute(
        _ADD_CUT_OFF, ledger_no, cut_off.currency, cut_off.time, cut_off.zone, cut_off.calendar,
        cut_off.lag_days,
    )  # fmt: skip


async def read_cut_offs(connection: Connection, ledger_no: int, currency: str) -> Sequence[CutOff]:
    """The ledger's own cut-offs of a currency or, where it has none, the one that FinFlow starts with."""
    rows = await connection.fetch(_CUT_OFFS, ledger_no, currency)
    default = DEFAULT_CUT_OFFS.get(currency)
    own = [CutOff(currency, r["at_time"], r["zone"], r["calendar"], r["lag_days"]) for r in rows]
    return own or ([] if default is None else [default])
