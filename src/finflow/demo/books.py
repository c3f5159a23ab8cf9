"""The books after the demonstration, read from the database: nothing twice, nothing lost, zero sums."""

from collections.abc import Collection
from typing import Final

import asyncpg
import msgspec

_TWICE: Final = """
select count(*) from (
    select reference from journal
     where reference like 'live-%' and code is null and kind in ('post', 'hold')
       and key not like 'repair:%'
     group by ledger_no, reference having count(*) > 1
) twice
"""
# An intent's key is its name; a hold's capture has the name behind it.
_FOUND: Final = "select count(distinct key) from journal where key = any($1::text[]) and code is null"
_KEYS_TWICE: Final = "select count(*) - count(distinct (ledger_no, key)) from journal"
_UNBALANCED: Final = """
select count(*) from (
    select a.ledger_no, a.currency from accounts a join lateral (
        select * from entries e where e.ledger_no = a.ledger_no and e.account_no = a.account_no
         order by e.version desc limit 1
    ) n on true
     group by a.ledger_no, a.currency
    having sum(n.posted_debits) <> sum(n.posted_credits)
        or sum(n.pending_debits) <> sum(n.pending_credits)
) wrong
"""


class Books(msgspec.Struct, frozen=True):
    """Intents that moved money twice, acknowledged ones that did not, and whether all sums are zero."""

    duplicates: int
    missing: int
    balanced: bool


async def read_books(database_url: str, acknowledged: Collection[str]) -> Books:
    """Look at every ledger. `acknowledged` are the keys whose answers said that money moved."""
    connection = await asyncpg.connect(database_url)
    try:
        twice = await connection.fetchval(_TWICE) + await connection.fetchval(_KEYS_TWICE)
        found = await connection.fetchval(_FOUND, list(acknowledged))
        unbalanced = await connection.fetchval(_UNBALANCED)
    finally:
        await connection.close(timeout=5)
    return Books(twice, len(acknowledged) - found, unbalanced == 0)
