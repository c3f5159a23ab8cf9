"""Connections whose statements are spans: what was asked, of whom, how long it took, how it failed.

The text of a statement is what the program wrote, never with a parameter's value in it. Where no span is
current, or nothing is recorded, a statement costs one look at a context variable more.
"""

from collections.abc import Awaitable, Coroutine
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from finflow.telemetry import tracing
from finflow.telemetry.statements import described

T = TypeVar("T")

if TYPE_CHECKING:
    Plain = asyncpg.Connection[asyncpg.Record]
else:
    Plain = asyncpg.Connection

_SYSTEM: Final = "postgresql"


def connection_class() -> type[Plain]:
    """What the connections of this process are: traced ones where traces are kept, else asyncpg's own."""
    return TracedConnection if tracing.tracer().recording else Plain


class TracedConnection(Plain):
    """An asyncpg connection; the methods that ask the server something are spans.

    They are no coroutine functions, they answer a coroutine: one more around it would cost every statement.
    """

    def execute(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, str]:
        """As asyncpg's; a span where one is current."""
        return self._asked(query, super().execute(query, *args, **options))

    def executemany(self, command: str, args: Any, **options: Any) -> Coroutine[Any, Any, None]:
        """As asyncpg's; a span where one is current."""
        return self._asked(command, super().executemany(command, args, **options))

    def fetch(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, list[Any]]:
        """As asyncpg's; a span where one is current."""
        return self._asked(query, super().fetch(query, *args, **options))

    def fetchval(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        """As asyncpg's; a span where one is current."""
        return self._asked(query, super().fetchval(query, *args, **options))

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        """As asyncpg's; a span where one is current."""
        return self._asked(query, super().fetchrow(query, *args, **options))

    def copy_to_table(self, table_name: str, **options: Any) -> Coroutine[Any, Any, str]:
        """As asyncpg's; a span where one is current."""
        return self._asked(f"COPY {table_name} FROM STDIN", super().copy_to_table(table_name, **options))

    def copy_from_query(self, query: str, *args: Any, **options: Any) -> Coroutine[Any, Any, str]:
        """As asyncpg's; a span where one is current."""
        return self._asked(f"COPY ({query}) TO STDOUT", super().copy_from_query(query, *args, **options))

    async def _asked(self, query: str, answer: Awaitable[T]) -> T:
        span = tracing.start("", "client")
        if span is None:
            return await answer
        inner: Any = self
        span.name, span.attributes = _described(query, inner._params.database or "", inner._addr)
        try:
            return await answer
        except BaseException as error:
            span.error = tracing.error_name(error)
            if sqlstate := getattr(error, "sqlstate", None):
                span.attributes = span.attributes | {"db.response.status_code": sqlstate}
            raise
        finally:
            span.end()


@lru_cache(maxsize=1024)
def _described(query: str, database: str, address: str | tuple[str, int]) -> tuple[str, tracing.Shared]:
    """A span's name and what it says of a statement, the same each time that it is asked."""
    statement = described(query)
    attributes: tracing.Attributes = {
        "db.system.name": _SYSTEM,
        "db.query.text": statement.text,
        "db.operation.name": statement.operation,
        "db.query.summary": statement.summary,
    }
    if statement.target:
        attributes["db.collection.name"] = statement.target
    attributes["db.namespace"] = database
    if isinstance(address, str):
        # A socket in the file system: its path is the address, and there is no port.
        attributes["server.address"] = address
    else:
        attributes["server.address"], attributes["server.port"] = address[0], int(address[1])
    return statement.summary or _SYSTEM, tracing.Shared(attributes)
