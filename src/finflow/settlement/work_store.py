"""SQL of the queue: what is to be done, who is at it, and until when nobody else is.

A lease is counted on the database's clock, which all workers share; when work is due, on the caller's.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple

from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger.store import Connection
from finflow.settlement import traced

WorkKind = Literal["batch", "cycle", "return", "reconcile"]

_ADD: Final = """
insert into settlement_work (ledger_no, kind, number, due_at, lease_until, claimed_by)
values ($1, $2, $3, $4, case when $5::text is null then '-infinity'
                             else clock_timestamp() + make_interval(secs => $6) end, $5)
on conflict do nothing
"""
_CLAIM: Final = """
update settlement_work w
   set lease_until = clock_timestamp() + make_interval(secs => $2), claimed_by = $3
  from (select ledger_no, kind, number from settlement_work
         where due_at <= $1 and lease_until <= clock_timestamp()
           and ($5::integer is null or ledger_no = $5) and ($6::text is null or (kind, number) = ($6, $7))
         order by due_at limit $4 for update skip locked) free
 where (w.ledger_no, w.kind, w.number) = (free.ledger_no, free.kind, free.number)
returning w.ledger_no, w.kind, w.number, w.failures, w.asked, array(
    select traceparent from settlement_causes c
     where (c.ledger_no, c.kind, c.number) = (w.ledger_no, w.kind, w.number) limit $8
)
"""
_RENEW: Final = """
update settlement_work set lease_until = clock_timestamp() + make_interval(secs => $4)
 where ledger_no = $1 and kind = $2 and number = $3 and claimed_by = $5
"""
_PUT_BACK: Final = """
update settlement_work
   set due_at = $4, lease_until = '-infinity', claimed_by = null, failures = $5, last_error = $6
 where ledger_no = $1 and kind = $2 and number = $3 and (claimed_by = $7 or claimed_by is null)
"""
_HURRY: Final = """
update settlement_work set due_at = least(due_at, $4), failures = 0
 where ledger_no = $1 and kind = $2 and number = $3
"""
# For work that is the same each time: whoever is at it now will see that it was asked for again.
_ASK: Final = """
insert into settlement_work as w (ledger_no, kind, number, due_at)
select $1, $2, number, $4 from unnest($3::bigint[]) as given (number) order by number
on conflict (ledger_no, kind, number) do update
   set due_at = least(w.due_at, excluded.due_at), failures = 0, asked = w.asked + 1
"""
_READ: Final = """
select due_at, failures, last_error from settlement_work where ledger_no = $1 and kind = $2 and number = $3
"""
_DONE: Final = """
delete from settlement_work where ledger_no = $1 and kind = $2 and number = $3 and asked = $4
"""
_ADD_CAUSE: Final = """
insert into settlement_causes (ledger_no, kind, number, traceparent)
select $1, $2, number, $4 from unnest($3::bigint[]) as given (number) on conflict do nothing
"""
_FORGET_CAUSES: Final = "delete from settlement_causes where ledger_no = $1 and kind = $2 and number = $3"


class Work(NamedTuple):
    """One thing to do: of which ledger, what, its number, and how often in a row it has failed.

    `asked` counts how often it was asked for again since it came, `causes` are the spans that asked for it.
    """

    ledger_no: int
    kind: WorkKind
    number: int
    failures: int = 0
    asked: int = 0
    causes: Sequence[str] = ()

    @property
    def key(self) -> tuple[int, WorkKind, int]:
        return self.ledger_no, self.kind, self.number


async def add_work(
    connection: Connection,
    key: tuple[int, WorkKind, int],
    due_at: int,
    claimed_by: str | None = None,
    lease_s: float = 0.0,
) -> None:
    """Put something into the queue, unless it is there; `claimed_by` does it itself, for now."""
    await connection.execute(_ADD, *key, to_datetime(due_at), claimed_by, lease_s)


async def claim(
    connection: Connection,
    now: int,
    lease_s: float,
    worker: str,
    limit: int,
    ledger_no: int | None = None,
    only: tuple[WorkKind, int] | None = None,
) -> Sequence[Work]:
    """Take what is due and not taken, for `lease_s`. Several may ask at once: nobody waits for a lock."""
    kind, number = only or (None, None)
    rows = await connection.fetch(
        _CLAIM, to_datetime(now), lease_s, worker, limit, ledger_no, kind, number, traced.MAX_CAUSES
    )
    return [Work(*row) for row in rows]


async def renew(connection: Connection, work: Work, lease_s: float, worker: str) -> None:
    """Keep what was taken for longer."""
    await connection.execute(_RENEW, *work.key, lease_s, worker)


async def put_back(
    connection: Connection, work: Work, due_at: int, failures: int, error: str | None, worker: str
) -> None:
    """Give something back that is to go on at a moment, and why it did not end now."""
    text = None if error is None else error[:500]
    await connection.execute(_PUT_BACK, *work.key, to_datetime(due_at), failures, text, worker)


async def hurry(connection: Connection, key: tuple[int, WorkKind, int], now: int) -> bool:
    """Make something due at once, its failures forgotten; False if there is no such work left."""
    await add_cause(connection, key[0], key[1], [key[2]])
    tag: str = await connection.execute(_HURRY, *key, to_datetime(now))
    return tag != "UPDATE 0"


async def ask(
    connection: Connection, ledger_no: int, kind: WorkKind, numbers: Sequence[int], now: int
) -> None:
    """Have the same work done (again) now, whether or not somebody is at it."""
    await add_cause(connection, ledger_no, kind, numbers)
    await connection.execute(_ASK, ledger_no, kind, list(numbers), to_datetime(now))


async def add_cause(connection: Connection, ledger_no: int, kind: WorkKind, numbers: Collection[int]) -> None:
    """Keep that what runs here has asked for work, where its trace was chosen at its beginning."""
    cause = traced.cause()
    if cause is not None and numbers:
        await connection.execute(_ADD_CAUSE, ledger_no, kind, list(numbers), cause)


async def forget_causes(connection: Connection, key: tuple[int, WorkKind, int]) -> None:
    """Work is done, so nobody will ask any more who had asked for it."""
    await connection.execute(_FORGET_CAUSES, *key)


async def finish(connection: Connection, key: tuple[int, WorkKind, int], asked: int = 0) -> bool:
    """Work is done, unless it was asked for again meanwhile; whether it is."""
    tag: str = await connection.execute(_DONE, *key, asked)
    return tag != "DELETE 0"


async def read(connection: Connection, key: tuple[int, WorkKind, int]) -> tuple[int, int, str | None] | None:
    """When something is due (µs), how often in a row it has failed, and why; None if it is done."""
    row = await connection.fetchrow(_READ, *key)
    return None if row is None else (to_micros(row["due_at"]), row["failures"], row["last_error"])
