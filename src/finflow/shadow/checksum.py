"""A full checksum of both books: every account, every entry, every row of the journal, at one moment.

The comparer sees commands; this sees what lies in the tables, however it came there. Digests are made by the
databases, set by set, as sums of hashes, so that the order of rows does not matter; only where two sets
differ are their rows fetched and told apart. What a known case explains is said so; anything else is a
finding.
"""

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from finflow.db.pool import connect
from finflow.kernel.errors import FinFlowError
from finflow.ledger.store import Connection
from finflow.shadow import live, store
from finflow.shadow.model import Known

PAUSE_S: Final = 300.0
MAX_LISTED: Final = 1_000
_POLL_S: Final = 0.1
_ATTEMPTS: Final = 20

_HASH: Final = "sum(('x' || left(md5({text}), 16))::bit(64)::bigint::numeric)"
# An account's settings and what it is worth; its gross totals are history, and are in the entries' digest.
_WORTH: Final = """
concat_ws('|', a.account_no, a.currency, a.exponent, a.kind, a.status, a.floor, a.ceiling,
          a.external_reference, a.metadata::text, coalesce(e.posted_debits - e.posted_credits, 0),
          coalesce(e.pending_debits, 0), coalesce(e.pending_credits, 0))
"""
_NEWEST: Final = """
left join lateral (
    select * from entries n where n.ledger_no = a.ledger_no and n.account_no = a.account_no {upto}
     order by version desc limit 1
) e on true
"""
_BOOKS: Final = f"""
select a.ledger_no, a.currency, count(*) as accounts, {_HASH.format(text=_WORTH)} as digest,
       sum(coalesce(a.normal * (e.posted_debits - e.posted_credits), 0)) as balances
  from accounts a {_NEWEST.format(upto="")}
 where a.ledger_no = any($1::integer[]) group by 1, 2
"""  # noqa: S608 # constants of this file
_ACCOUNTS: Final = f"""
select a.account_no, a.currency, md5({_WORTH}) as digest,
       coalesce(e.posted_debits - e.posted_credits, 0) as posted,
       coalesce(e.pending_debits, 0) as held_debits, coalesce(e.pending_credits, 0) as held_credits
  from accounts a {_NEWEST.format(upto="")} where a.ledger_no = $1 order by a.account_no
"""  # noqa: S608 # constants of this file
_ENTRY: Final = """
concat_ws('|', account_no, version, seq, amount, held, posted_debits, posted_credits, pending_debits,
          pending_credits, extract(epoch from effective_max), extract(epoch from late_at))
"""
_ENTRIES: Final = f"""
select ledger_no, count(*) as entries, {_HASH.format(text=_ENTRY)} as digest from entries
 where ledger_no = any($1::integer[]) group by 1
"""  # noqa: S608 # constants of this file
_ENTRIES_OF: Final = f"""
select account_no, {_HASH.format(text=_ENTRY)} as digest from entries where ledger_no = $1 group by 1
"""  # noqa: S608 # constants of this file
# Without `legs`: they name versions, which stay shifted on an account that once got an entry too many. The
# entries themselves carry their `seq`.
_ROW: Final = """
concat_ws('|', seq, extract(epoch from recorded_at), kind, key, caller, code, param, target)
"""
_JOURNAL: Final = f"""
select ledger_no, count(*) as commands, {_HASH.format(text=_ROW)} as digest from journal
 where ledger_no = any($1::integer[]) group by 1
"""  # noqa: S608 # constants of this file
_ROWS: Final = (
    f"select seq, md5({_ROW}) as digest from journal where ledger_no = $1 and seq > $2 order by seq"  # noqa: S608 # constants of this file
)


class Finding(msgspec.Struct, frozen=True):
    """One account or one row of the journal that is not the same on both sides, and the case that explains
    it.

    `worth` says that what the account is worth or may do differs, not only how it came there.
    """

    ledger_no: int
    kind: str
    number: int
    currency: str | None
    live: Any
    shadow: Any
    case_no: int | None
    worth: bool


class Verified(msgspec.Struct, frozen=True):
    """The checksum's answer: how much was looked at, what differs."""

    ledgers: int
    accounts: int
    entries: int
    commands: int
    findings: tuple[Finding, ...]
    more: bool

    @property
    def unexplained(self) -> int:
        """Findings that no case explains."""
        return sum(each.case_no is None for each in self.findings)

    @property
    def apart(self) -> int:
        """Accounts that are not worth the same, explained or not."""
        return sum(each.worth for each in self.findings)

    @property
    def equal(self) -> bool:
        """Whether every account is worth the same on both sides, and nothing else differs without a known
        case.
        """
        return not self.unexplained and not self.apart and not self.more


async def verify(live_url: str, clone_url: str, within_s: float = 120.0) -> Verified:
    """Compare both books as a whole, at one `seq` of every ledger.

    The replayer is held there for as long as it takes; the live database is read in one snapshot and not
    held up. Raises shadow_behind where the shadow does not get there in time, shadow_target_live,
    database_unreachable.
    """
    one = await connect(live_url, application_name="finflow shadow verify", command_timeout_s=None)
    try:
        other = await connect(clone_url, application_name="finflow shadow verify", command_timeout_s=None)
        try:
            await store.check_apart(one, other)
            try:
                return await _verify(one, other, monotonic() + within_s)
            finally:
                await store.unpause(other)
        finally:
            await other.close(timeout=5)
    finally:
        await one.close(timeout=5)


async def _verify(one: Connection, other: Connection, deadline: float) -> Verified:
    for _ in range(_ATTEMPTS):
        await store.pause(other, dict.fromkeys(await live.read_heads(other), 0), PAUSE_S)
        await _still(other)
        async with one.transaction(isolation="repeatable_read", readonly=True):
            heads = await live.read_heads(one)
            await store.pause(other, heads, PAUSE_S)
            if not await _arrived(other, heads, deadline):
                continue
            async with other.transaction(isolation="repeatable_read"):
                return await _compare(one, other, sorted(heads))
    raise FinFlowError("shadow_behind", "the shadow does not stand still")


async def _still(other: Connection) -> None:
    """Wait until no round is under way that began before the pause."""
    before: dict[int, int] = {}
    while (now := await live.read_heads(other)) != before:
        before = now
        await asyncio.sleep(5 * _POLL_S)


async def _arrived(other: Connection, heads: Mapping[int, int], deadline: float) -> bool:
    """Whether the clone stands at these heads exactly; False where it is beyond one of them."""
    while True:
        now = await live.read_heads(other)
        if any(now.get(ledger_no, 0) > seq for ledger_no, seq in heads.items()):
            return False
        behind = [no for no, seq in heads.items() if now.get(no, -1) < seq]
        if not behind:
            return True
        if monotonic() > deadline:
            raise FinFlowError("shadow_behind", f"ledger {behind[0]} stands at {now.get(behind[0])} yet")
        await asyncio.sleep(_POLL_S)


async def _compare(one: Connection, other: Connection, ledgers: Sequence[int]) -> Verified:
    books = await _both(one, other, _BOOKS, ledgers, ("ledger_no", "currency"))
    entries = await _both(one, other, _ENTRIES, ledgers, ("ledger_no",))
    journal = await _both(one, other, _JOURNAL, ledgers, ("ledger_no",))
    findings: list[Finding] = []
    bases = await store.read_bases(other)
    for ledger_no in ledgers:
        explained = await _Explained.of(other, ledger_no)
        if _differ(books, ledger_no) or _differ(entries, ledger_no):
            findings += await _accounts_apart(one, other, ledger_no, explained)
        if _differ(journal, ledger_no):
            # Rows from before the clone are looked at last: whoever changes history may change any of it.
            after = bases.get(ledger_no, 0)
            findings += await _rows_apart(one, other, ledger_no, after, explained) or (
                await _rows_apart(one, other, ledger_no, -1, explained)
            )
    count = sum(int(row["accounts"]) for row in books[0].values())
    lines = sum(int(row["entries"]) for row in entries[0].values())
    rows = sum(int(row["commands"]) for row in journal[0].values())
    more = len(findings) > MAX_LISTED
    return Verified(len(ledgers), count, lines, rows, tuple(findings[:MAX_LISTED]), more)


Sets = tuple[dict[tuple[Any, ...], Any], dict[tuple[Any, ...], Any]]


async def _both(
    one: Connection, other: Connection, sql: str, ledgers: Sequence[int], key: tuple[str, ...]
) -> Sets:
    mine, its = await asyncio.gather(one.fetch(sql, ledgers), other.fetch(sql, ledgers))
    return tuple({tuple(row[name] for name in key): row for row in rows} for rows in (mine, its))  # type: ignore[return-value] # two of them


def _differ(sets: Sets, ledger_no: int) -> bool:
    mine, its = ({k: tuple(row) for k, row in side.items() if k[0] == ledger_no} for side in sets)
    return mine != its


class _Explained:
    """What the cases of one ledger account for."""

    def __init__(self, known: Mapping[int, Known], rows: Mapping[int, int]) -> None:
        self.known = known
        self.rows = rows

    @classmethod
    async def of(cls, clone: Connection, ledger_no: int) -> "_Explained":
        known = await store.read_apart(clone, ledger_no)
        return cls(known, await store.read_wrong_targets(clone, ledger_no))


async def _accounts_apart(
    one: Connection, other: Connection, ledger_no: int, explained: _Explained
) -> list[Finding]:
    mine = {row["account_no"]: row for row in await one.fetch(_ACCOUNTS, ledger_no)}
    its = {row["account_no"]: row for row in await other.fetch(_ACCOUNTS, ledger_no)}
    histories = [
        {row["account_no"]: row["digest"] for row in await each.fetch(_ENTRIES_OF, ledger_no)}
        for each in (one, other)
    ]
    found = []
    for account_no in sorted(mine.keys() | its.keys() | histories[0].keys() | histories[1].keys()):
        a, b = mine.get(account_no), its.get(account_no)
        worth = a is None or b is None or a["digest"] != b["digest"]
        if not worth and histories[0].get(account_no) == histories[1].get(account_no):
            continue
        known = explained.known.get(account_no)
        case_no = known.case_no if known is not None and _accounts_for(known, a, b) else None
        currency = (a or b or {"currency": None})["currency"]
        found.append(
            Finding(ledger_no, "account", account_no, currency, _worth(a), _worth(b), case_no, worth)
        )
    return found


def _worth(row: Any) -> list[int] | None:
    return None if row is None else [row["posted"], row["held_debits"], row["held_credits"]]


def _accounts_for(known: Known, a: Any, b: Any) -> bool:
    """Whether an account is just as far apart as its case has left it."""
    mine, its = _worth(a), _worth(b)
    return mine is not None and its is not None and tuple(map(int.__sub__, mine, its)) == known.delta.net


async def _rows_apart(
    one: Connection, other: Connection, ledger_no: int, after: int, explained: _Explained
) -> list[Finding]:
    mine = {row["seq"]: row["digest"] for row in await one.fetch(_ROWS, ledger_no, after)}
    its = {row["seq"]: row["digest"] for row in await other.fetch(_ROWS, ledger_no, after)}
    return [
        Finding(ledger_no, "command", seq, None, mine.get(seq), its.get(seq), explained.rows.get(seq), False)
        for seq in sorted(mine.keys() | its.keys())
        if mine.get(seq) != its.get(seq)
    ]
