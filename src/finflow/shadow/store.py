"""What the shadow keeps about itself, in a schema of the clone that no live database has.

It commits with the rows that it is about, in one transaction: a replayer that was killed goes on where the
clone's own heads stand, and has neither lost a case nor counted one twice.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.ledger.store import Connection
from finflow.shadow.cases import Case
from finflow.shadow.model import Known, Outcome, Totals

_SCHEMA: Final = """
create schema shadow;
create table shadow.mark (made_at timestamptz not null, system_identifier text not null);
create table shadow.bases (ledger_no integer primary key, seq bigint not null);
create table shadow.tallies (
    ledger_no integer not null, outcome text not null, comparisons bigint not null,
    primary key (ledger_no, outcome)
);
create table shadow.apart (
    ledger_no integer not null, account_no integer not null, version bigint not null,
    posted_debits bigint not null, posted_credits bigint not null,
    pending_debits bigint not null, pending_credits bigint not null, case_no bigint not null,
    primary key (ledger_no, account_no)
);
create table shadow.cycles (
    ledger_no integer not null, cycle_no bigint not null, primary key (ledger_no, cycle_no)
);
create table shadow.pauses (
    ledger_no integer primary key, seq bigint not null, until timestamptz not null
);
create table shadow.cases (
    case_no bigint primary key, ledger_no integer not null, subject text not null, number bigint not null,
    outcome text not null, body jsonb not null, unique (ledger_no, subject, number)
);
create function shadow.kept() returns trigger language plpgsql as $$
begin
    raise exception 'cases are history: nothing changes or removes them';
end;
$$;
create trigger cases_are_kept before update or delete or truncate on shadow.cases
    for each statement execute function shadow.kept();
insert into shadow.mark values (clock_timestamp(), (select system_identifier::text from pg_control_system()));
insert into shadow.bases select ledger_no, seq from heads;
"""
_MARKED: Final = "select to_regclass('shadow.mark') is not null"
_ADD_CASES: Final = """
insert into shadow.cases (case_no, ledger_no, subject, number, outcome, body)
select * from unnest($1::bigint[], $2::integer[], $3::text[], $4::bigint[], $5::text[], $6::jsonb[])
"""
_ADD_TALLIES: Final = """
insert into shadow.tallies as t (ledger_no, outcome, comparisons)
select $1, * from unnest($2::text[], $3::bigint[])
on conflict (ledger_no, outcome) do update set comparisons = t.comparisons + excluded.comparisons
"""
_SET_APART: Final = """
insert into shadow.apart (ledger_no, account_no, version, posted_debits, posted_credits, pending_debits,
                          pending_credits, case_no)
select $1, * from unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                         $8::bigint[])
on conflict (ledger_no, account_no) do update
   set version = excluded.version, posted_debits = excluded.posted_debits,
       posted_credits = excluded.posted_credits, pending_debits = excluded.pending_debits,
       pending_credits = excluded.pending_credits, case_no = excluded.case_no
"""
# Made beside the others and not with them: clones that were made before it go on.
_RELEASES: Final = """
create table if not exists shadow.releases (release text primary key, comparisons bigint not null)
"""
_ADD_RELEASES: Final = """
insert into shadow.releases as r (release, comparisons)
select * from unnest($1::text[], $2::bigint[])
on conflict (release) do update set comparisons = r.comparisons + excluded.comparisons
"""
_APART: Final = "select * from shadow.apart where ledger_no = $1"
_CASES: Final = "select body from shadow.cases where case_no > $1 order by case_no limit $2"
_PAUSES: Final = "select ledger_no, seq from shadow.pauses where until > clock_timestamp()"
_PAUSE: Final = """
insert into shadow.pauses (ledger_no, seq, until)
select *, clock_timestamp() + $3::interval from unnest($1::integer[], $2::bigint[])
on conflict (ledger_no) do update set seq = excluded.seq, until = excluded.until
"""
_WRONG_TARGETS: Final = """
select number, case_no from shadow.cases where ledger_no = $1 and subject = 'command'
"""


async def mark(connection: Connection) -> None:
    """Make a fresh clone a shadow: from now on it says what it is. Raises shadow_target_live for a second
    time.

    Whoever calls this has just made the copy, and knows that it is none.
    """
    if await connection.fetchval(_MARKED):
        raise FinFlowError("shadow_target_live", "this database is a shadow already, or the copy of one")
    async with connection.transaction():
        await connection.execute(_SCHEMA)


async def check_apart(live: Connection, clone: Connection) -> None:
    """Raises shadow_target_live unless the one is a marked clone and the other is no shadow at all."""
    if not await clone.fetchval(_MARKED):
        raise FinFlowError("shadow_target_live", "the database to replay on has no mark of a shadow")
    if await live.fetchval(_MARKED):
        raise FinFlowError("shadow_target_live", "the database to read from is a shadow itself")


async def wipe(connection: Connection) -> None:
    """Take a clone out of a database that was named for it. Raises shadow_target_live for anything else."""
    if not await connection.fetchval(_MARKED):
        raise FinFlowError("shadow_target_live", "the database has no mark of a shadow, so it is left alone")
    async with connection.transaction():
        await connection.execute("drop schema public cascade")
        await connection.execute("create schema public")
        await connection.execute("drop schema shadow cascade")


async def read_bases(connection: Connection) -> dict[int, int]:
    """How far each ledger was when it was cloned."""
    return {row["ledger_no"]: row["seq"] for row in await connection.fetch("select * from shadow.bases")}


async def add_cases(connection: Connection, cases: Sequence[Case]) -> None:
    """Keep cases, for good."""
    if not cases:
        return
    columns = [
        [case.case_no for case in cases],
        [case.ledger_no for case in cases],
        [case.subject for case in cases],
        [case.number for case in cases],
        [case.outcome.value for case in cases],
        # PostgreSQL's jsonb takes no zero character; text of customers may hold one where it was refused.
        [msgspec.json.encode(case).decode().replace("\\u0000", "\\ufffd") for case in cases],
    ]
    await connection.execute(_ADD_CASES, *columns)


async def count(connection: Connection, ledger_no: int, outcomes: Mapping[Outcome, int]) -> None:
    """Add to the tallies of a ledger."""
    if outcomes:
        names = [outcome.value for outcome in outcomes]
        await connection.execute(_ADD_TALLIES, ledger_no, names, list(outcomes.values()))


async def read_tallies(connection: Connection) -> dict[int, Counter[str]]:
    """How many comparisons ended how, by ledger."""
    found: dict[int, Counter[str]] = {}
    for row in await connection.fetch("select * from shadow.tallies"):
        found.setdefault(row["ledger_no"], Counter())[row["outcome"]] = row["comparisons"]
    return found


async def make_releases(connection: Connection) -> None:
    """Have a place for what each release was compared."""
    await connection.execute(_RELEASES)


async def count_releases(connection: Connection, compared: Mapping[str, int]) -> None:
    """Add to how many commands of each release were compared in time."""
    if compared:
        names = sorted(compared)
        await connection.execute(_ADD_RELEASES, names, [compared[name] for name in names])


async def read_releases(connection: Connection) -> dict[str, int]:
    """How many commands of each release were compared in time."""
    rows = await connection.fetch("select * from shadow.releases")
    return {row["release"]: row["comparisons"] for row in rows}


async def set_apart(connection: Connection, ledger_no: int, known: Mapping[int, Known]) -> None:
    """Keep how far accounts are apart."""
    if known:
        rows = [(no, *each.delta, each.case_no) for no, each in known.items()]
        columns = [list(column) for column in zip(*rows, strict=True)]
        await connection.execute(_SET_APART, ledger_no, *columns)


async def read_apart(connection: Connection, ledger_no: int) -> dict[int, Known]:
    """The accounts of a ledger that differ, or did, and the case that began it."""
    return {
        row["account_no"]: Known(Totals(*(row[name] for name in Totals._fields)), row["case_no"])
        for row in await connection.fetch(_APART, ledger_no)
    }


async def read_wrong_targets(connection: Connection, ledger_no: int) -> dict[int, int]:
    """Cases of a ledger's transactions by `seq`."""
    return {row["number"]: row["case_no"] for row in await connection.fetch(_WRONG_TARGETS, ledger_no)}


async def read_cases(connection: Connection, after: int = 0, limit: int = 1_000) -> list[Case]:
    """Cases after one of them, oldest first."""
    rows = await connection.fetch(_CASES, after, limit)
    return [msgspec.json.decode(row["body"], type=Case) for row in rows]


async def finish_cycle(connection: Connection, ledger_no: int, cycle_no: int) -> None:
    """Keep that a cycle was compared."""
    await connection.execute(
        "insert into shadow.cycles values ($1, $2) on conflict do nothing", ledger_no, cycle_no
    )


async def next_case_no(connection: Connection) -> int:
    """The number of the next case."""
    last: int = await connection.fetchval("select coalesce(max(case_no), 0) from shadow.cases")
    return last + 1


async def read_pauses(connection: Connection) -> dict[int, int]:
    """Where somebody wants ledgers to wait for now: never further than this `seq`."""
    return {row["ledger_no"]: row["seq"] for row in await connection.fetch(_PAUSES)}


async def pause(connection: Connection, heads: Mapping[int, int], for_s: float) -> None:
    """Have ledgers wait at these heads; the pause ends by itself, should whoever asked for it be killed."""
    await connection.execute(_PAUSE, list(heads), list(heads.values()), dt.timedelta(seconds=for_s))


async def unpause(connection: Connection) -> None:
    """Let everything go on."""
    await connection.execute("delete from shadow.pauses")
