"""Ranges of a table's key: the next so many rows behind a key, as first and last.

A range is taken from the rows that are there, so it never holds more than its number of them, however the
keys are spread. Both ends belong to it: `WHERE id BETWEEN $1 AND $2`, and for a key of several columns
`WHERE (a, b) >= ($1, $2) AND (a, b) <= ($3, $4)`.
"""

from typing import Any, Final

import asyncpg
import msgspec

from finflow.db.phases import Keyed
from finflow.kernel.errors import FinFlowError

# The columns by the names that were declared, with their types as SQL writes them.
_COLUMNS: Final = """
SELECT k.name, a.attnum, a.attnotnull, quote_ident(a.attname) AS quoted,
       format_type(a.atttypid, a.atttypmod) AS type
  FROM unnest($2::text[]) WITH ORDINALITY AS k (name, n)
  LEFT JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attname = k.name AND NOT a.attisdropped
 ORDER BY k.n"""
# A unique index over these columns alone: two rows with one key could fall on both sides of a range's end.
_IS_UNIQUE: Final = """
SELECT EXISTS (
    SELECT FROM pg_index i
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
       AND i.indnkeyatts = cardinality($2::int2[])
       AND (SELECT array_agg(x ORDER BY n) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u (x, n)
             WHERE n <= i.indnkeyatts) = $2::int2[])"""
# The catalogue's guess; a table that was never analysed has -1.
_ESTIMATE: Final = """
SELECT to_regclass($1)::text AS name,
       (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::int8 FROM pg_class c
         WHERE c.relkind <> 'p' AND (c.oid = to_regclass($1)
            OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass($1))))) AS rows"""


class Page(msgspec.Struct, frozen=True):
    """A range of keys: its first and last key as values, the last as text too, and how many rows it has."""

    lower: tuple[Any, ...]
    upper: tuple[Any, ...]
    last: list[str]
    rows: int


class KeyRange:
    """The key of one table, ready to be walked along."""

    def __init__(self, table: str, columns: list[str], types: list[str], estimated_rows: int) -> None:
        self.estimated_rows = estimated_rows
        self._width = len(columns)
        key = ", ".join(columns)
        bound = ", ".join(f"${number}::text::{each}" for number, each in enumerate(types, 1))
        texts = ", ".join(f"{column}::text" for column in columns)
        page = (
            "SELECT {key}, {texts}, finflow_n FROM (SELECT {key},"
            " row_number() OVER (ORDER BY {key}) AS finflow_n,"
            " lead(true) OVER (ORDER BY {key}) AS finflow_more"
            " FROM (SELECT {key} FROM {table}{where} ORDER BY {key} LIMIT ${limit}) AS ahead) AS page"
            " WHERE finflow_n = 1 OR finflow_more IS NULL ORDER BY finflow_n"
        )
        words = {"key": key, "texts": texts, "table": table}
        self._first = page.format(**words, where="", limit=1)
        behind = f" WHERE ({key}) > ({bound})"
        self._next = page.format(**words, where=behind, limit=self._width + 1)

    async def page(
        self, connection: "asyncpg.Connection[Any]", last: list[str] | None, rows: int
    ) -> Page | None:
        """The next rows behind `last`, or from the beginning; None where there are no more."""
        found = (
            await connection.fetch(self._first, rows)
            if last is None
            else await connection.fetch(self._next, *last, rows)
        )
        if not found:
            return None
        lower, upper = tuple(found[0])[: self._width], tuple(found[-1])
        texts = list(upper[self._width : 2 * self._width])
        return Page(lower, upper[: self._width], texts, upper[-1])


async def read(connection: "asyncpg.Connection[Any]", name: str, declared: Keyed) -> KeyRange:
    """Looks the declared key up. Raises backfill_malformed where it is no key of such a table."""
    async with connection.transaction():
        row = await connection.fetchrow(_ESTIMATE, declared.table)
        if row is None or row["name"] is None:
            raise FinFlowError("backfill_malformed", f"{name}: there is no table {declared.table}.")
        columns = await connection.fetch(_COLUMNS, declared.table, list(declared.key))
        for column in columns:
            if column["attnum"] is None or not column["attnotnull"]:
                what = "is no column" if column["attnum"] is None else "may be null"
                raise FinFlowError("backfill_malformed", f"{name}: {column['name']} {what}.")
        numbers = [column["attnum"] for column in columns]
        if not await connection.fetchval(_IS_UNIQUE, declared.table, numbers):
            detail = f"{name}: ({', '.join(declared.key)}) is not a unique key of {declared.table}."
            raise FinFlowError("backfill_malformed", detail)
    quoted = [column["quoted"] for column in columns]
    return KeyRange(row["name"], quoted, [column["type"] for column in columns], row["rows"])
