"""The ledger's SQL on the money path: head, accounts, targets and known keys.

Every statement is set-based and serves one row or ten thousand. The write of a batch is in `save.py`, reads
for people are in `queries.py`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec

from finflow.kernel import ids, money
from finflow.kernel.clock import to_datetime, to_micros
from finflow.ledger import copy
from finflow.ledger.book import Account, Book, Entry, Head, Record, Target
from finflow.ledger.commands import Command, EntryLine, OpenAccount, PostTransaction

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = Any

_decode_command = msgspec.json.Decoder(Command).decode


_LOCK_HEAD: Final = "select seq, account_no, recorded_at from heads where ledger_no = $1 for update"
_ADVANCE: Final = """
update heads set seq = $2, account_no = $3, recorded_at = $4
 where ledger_no = $1 and seq = $5 returning seq
"""

_ADVANCE_AT_ONCE: Final = """
with free as (select ledger_no from heads where ledger_no = $1 and seq = $5 for update nowait)
update heads h set seq = $2, account_no = $3, recorded_at = $4 from free
 where h.ledger_no = free.ledger_no and h.seq = $5 returning h.seq
"""

ACCOUNT_COLUMNS: Final = """
a.ledger_no, a.account_no, a.seq, a.created_at, a.currency, a.exponent, a.kind, a.normal, a.status,
a.floor, a.ceiling, a.external_reference, a.metadata::text as metadata,
e.version, e.posted_debits, e.posted_credits, e.pending_debits, e.pending_credits, e.effective_max
"""
NEWEST_ENTRY: Final = """
left join lateral (
    select * from entries n
     where n.ledger_no = a.ledger_no and n.account_no = a.account_no
     order by n.version desc limit 1
) e on true
"""
_ACCOUNTS: Final = f"""
select {ACCOUNT_COLUMNS} from accounts a {NEWEST_ENTRY}
 where a.ledger_no = $1 and a.account_no = any($2::integer[])
"""  # noqa: S608 # constants of this file

JOURNAL_COLUMNS: Final = """
j.ledger_no, j.seq, j.recorded_at, j.target, j.expires_at, j.kind, j.key, j.caller, j.legs, j.code, j.param,
j.command
"""
_BY_KEY: Final = f"select {JOURNAL_COLUMNS} from journal j where ledger_no = $1 and key = any($2::text[])"  # noqa: S608 # constants
_BY_SEQ: Final = f"select {JOURNAL_COLUMNS} from journal j where ledger_no = $1 and seq = any($2::bigint[])"  # noqa: S608 # constants
# OFFSET 0 leaves the planner nothing but to look each entry up; a join would read all of a young ledger.
_NAMED: Final = """
  from unnest($2::integer[], $3::bigint[]) as leg (account_no, version)
  cross join lateral (
      select * from entries
       where ledger_no = $1 and account_no = leg.account_no and version = leg.version offset 0
  ) e
"""
_ENTRIES: Final = f"select e.* {_NAMED}"
_RESOLUTIONS: Final = """
select target, kind from journal where ledger_no = $1 and target = any($2::bigint[]) and code is null
"""
_REFERENCES: Final = """
select external_reference from accounts where ledger_no = $1 and external_reference = any($2::text[])
"""
_ASSETS: Final = "select code, exponent from assets where ledger_no = $1"
_CHANGES: Final = """
select kind, target, legs from journal where ledger_no = $1 and seq > $2 and code is null order by seq
"""
_TOTALS: Final = f"""
select e.account_no, e.version, e.posted_debits, e.posted_credits, e.pending_debits, e.pending_credits,
       e.effective_max {_NAMED}
"""  # constants of this file


async def lock_head(connection: Connection, ledger_no: int) -> Head | None:
    row = await connection.fetchrow(_LOCK_HEAD, ledger_no)
    return None if row is None else Head(row["seq"], row["account_no"], to_micros(row["recorded_at"]))


async def advance_head(connection: Connection, ledger_no: int, head: Head, expected_seq: int) -> bool:
    """Move the head, waiting for its lock. False, and nothing moved, if it is not at `expected_seq`."""
    return await _advance(_ADVANCE, connection, ledger_no, head, expected_seq)


async def advance_head_at_once(connection: Connection, ledger_no: int, head: Head, expected_seq: int) -> bool:
    """The same without waiting. Raises LockNotAvailableError where somebody else holds the head."""
    return await _advance(_ADVANCE_AT_ONCE, connection, ledger_no, head, expected_seq)


async def _advance(sql: str, connection: Connection, ledger_no: int, head: Head, expected_seq: int) -> bool:
    at = to_datetime(head.recorded_at)
    return await connection.fetchval(sql, ledger_no, head.seq, head.account_no, at, expected_seq) is not None


async def catch_up(connection: Connection, book: Book, head: Head) -> None:
    """Bring the book from its `seq` to the head, which is locked: totals anew, other changes forgotten."""
    newest: dict[int, int] = {}
    for row in await connection.fetch(_CHANGES, book.ledger_no, book.seq):
        for account_no, version in copy.read_legs(row["legs"]):
            if version:
                newest[account_no] = version
            else:
                book.forget(account_no)
        book.targets.pop(row["target"], None)
        if row["kind"] == "open_account":
            book.references.clear()
        elif row["kind"] == "declare_asset":
            book.assets = None
    held = {account_no: version for account_no, version in newest.items() if account_no in book.by_number}
    if held:
        totals = await connection.fetch(_TOTALS, book.ledger_no, list(held), list(held.values()))
        for row in totals:
            _set_totals(book.by_number[row["account_no"]], row)
    book.seq, book.account_no, book.recorded_at = head


async def find_accounts(connection: Connection, ledger_no: int, account_nos: Sequence[int]) -> list[Account]:
    return [account_from_row(row) for row in await connection.fetch(_ACCOUNTS, ledger_no, account_nos)]


async def find_references(connection: Connection, ledger_no: int, references: Sequence[str]) -> set[str]:
    """Those of these external references that an account has."""
    return {row[0] for row in await connection.fetch(_REFERENCES, ledger_no, references)}


async def find_assets(connection: Connection, ledger_no: int) -> dict[str, int]:
    return {row["code"]: row["exponent"] for row in await connection.fetch(_ASSETS, ledger_no)}


async def find_targets(connection: Connection, ledger_no: int, seqs: Sequence[int]) -> list[Target]:
    """Accepted transactions that commands name, and quotes by negative numbers, with what became of them."""
    rows = await connection.fetch(_BY_SEQ, ledger_no, seqs) if max(seqs, default=0) > 0 else []
    records = await read_records(connection, ledger_no, [row for row in rows if row["code"] is None])
    resolved = {row["target"]: row["kind"] for row in await connection.fetch(_RESOLUTIONS, ledger_no, seqs)}
    quotes = [Target(seq, "", "post", (), None, resolved.get(seq)) for seq in seqs if seq < 0]
    named = [target_of(ledger_no, record, resolved.get(record.seq)) for record in records if record.entries]
    return named + quotes


def target_of(ledger_no: int, record: Record, resolved_by: Any) -> Target:
    """An accepted transaction as commands name it, given what has resolved it."""
    held = record.kind == "hold"
    amounts = [(e.account_no, e.held if held else e.amount) for e in record.entries]
    lines = tuple((no, 1 if amount > 0 else -1, abs(amount)) for no, amount in amounts)
    return Target(
        record.seq, record.transaction_id(ledger_no), record.kind, lines, record.expires_at, resolved_by
    )


async def find_by_key(connection: Connection, ledger_no: int, keys: Sequence[str]) -> dict[str, Record]:
    """What the journal says of these idempotency keys."""
    rows = await connection.fetch(_BY_KEY, ledger_no, keys)
    return {record.key: record for record in await read_records(connection, ledger_no, rows)}


async def find_by_seq(connection: Connection, ledger_no: int, seqs: Sequence[int]) -> list[Record]:
    return await read_records(connection, ledger_no, await connection.fetch(_BY_SEQ, ledger_no, seqs))


async def read_records(
    connection: Connection, ledger_no: int, rows: Sequence[Any], whole: bool = True
) -> list[Record]:
    """Journal rows, selected with JOURNAL_COLUMNS, as records with their entries and whole commands.

    Not `whole`, commands are without the lines that their entries came from, and what opened or changed an
    account is without it: enough to show transactions, and the accounts are not looked up.
    """
    legs = [copy.read_legs(row["legs"]) for row in rows]
    named = [leg for of_row in legs for leg in of_row]
    entries: dict[tuple[int, int], Entry] = {}
    accounts: dict[int, Account] = {}
    if named:
        account_nos, versions = [leg[0] for leg in named], [leg[1] for leg in named]
        found = await connection.fetch(_ENTRIES, ledger_no, account_nos, versions)
        entries = {(row["account_no"], row["version"]): entry_from_row(row) for row in found}
        if whole:
            read = await find_accounts(connection, ledger_no, sorted(set(account_nos)))
            accounts = {account.account_no: account for account in read}
    return [
        _record(row, tuple([entries[leg] for leg in of_row if leg in entries]), accounts, of_row)
        for row, of_row in zip(rows, legs, strict=True)
    ]


def bare_record(row: Any) -> Record:
    """A journal row, selected with JOURNAL_COLUMNS, as a record without its entries."""
    return _record(row, (), {}, [])


def _record(
    row: Any, entries: tuple[Entry, ...], accounts: dict[int, Account], legs: list[tuple[int, int]]
) -> Record:
    record = Record(
        row["seq"], to_micros(row["recorded_at"]), row["kind"], row["key"], row["caller"],
        PostTransaction() if row["command"] is None else _decode_command(row["command"]),
        code=row["code"], param=row["param"], target=row["target"],
        expires_at=None if row["expires_at"] is None else to_micros(row["expires_at"]), entries=entries,
    )  # fmt: skip
    if accounts and isinstance(record.command, PostTransaction) and record.code is None:
        lines = [line_of(entry, accounts[entry.account_no]) for entry in entries]
        record.command = msgspec.structs.replace(record.command, entries=lines)
    if accounts and legs and not entries:
        record.account = _as_opened(record, accounts[legs[0][0]])
    return record


def _as_opened(record: Record, account: Account) -> Account:
    """An account as its opening command left it, so that a replay of the opening answers the same."""
    if not isinstance(record.command, OpenAccount):
        return account
    return msgspec.structs.replace(
        account, status="open", metadata=record.command.metadata, version=0,
        floor=limit_minor(record.command.overdraft_limit, account.exponent, -1),
        ceiling=limit_minor(record.command.upper_limit, account.exponent, 1),
    )  # fmt: skip


def limit_minor(text: str | None, exponent: int, sign: int) -> int | None:
    return None if text is None else sign * money.to_minor(text, exponent)


def line_of(entry: Entry, account: Account) -> EntryLine:
    """The command's line that an entry came from, its amount with all the currency's decimals."""
    amount = entry.amount or entry.held
    direction: Any = "debit" if amount > 0 else "credit"
    return EntryLine(
        account.account_id, direction, money.to_text(abs(amount), account.exponent), account.currency
    )


def account_from_row(row: Any) -> Account:
    """An account and its newest totals from a row of ACCOUNT_COLUMNS."""
    account = Account(
        row["ledger_no"], row["account_no"], row["seq"], to_micros(row["created_at"]), row["currency"],
        row["exponent"], row["kind"], row["normal"], row["status"], row["floor"], row["ceiling"],
        row["external_reference"], None if row["metadata"] is None else msgspec.json.decode(row["metadata"]),
    )  # fmt: skip
    if row["version"] is not None:
        _set_totals(account, row)
    return account


def _set_totals(account: Account, row: Any) -> None:
    account.version = row["version"]
    account.posted_debits, account.posted_credits = row["posted_debits"], row["posted_credits"]
    account.pending_debits, account.pending_credits = row["pending_debits"], row["pending_credits"]
    account.effective_max = to_micros(row["effective_max"])


def entry_from_row(row: Any) -> Entry:
    return Entry(
        row["account_no"], row["version"], row["seq"], row["amount"], row["held"], row["posted_debits"],
        row["posted_credits"], row["pending_debits"], row["pending_credits"],
        to_micros(row["effective_max"]), None if row["late_at"] is None else to_micros(row["late_at"]),
    )  # fmt: skip


def account_nos_of(ledger_no: int, account_ids: Iterable[str]) -> list[int]:
    """Numbers of the ids that point into this ledger; the others are nobody's here."""
    locators = (ids.parse("acc", account_id) for account_id in account_ids)
    return sorted({loc.number for loc in locators if loc is not None and loc.ledger_no == ledger_no})
