"""Connections whose statements are spans: what was asked, of whom, how long it took, how it failed.

The text of a statement is what the program wrote, never with a parameter's value in it. Where no span is
current, or nothing is recorded, a statement costs one look at a context variable more.
"""

from collections.abc import Awaitable
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
    """An asyncpg connection; the methods that ask the server something are spans."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's; a span where one is current."""
        return await self._asked(query, super().execute(query, *args, **options))

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        """As asyncpg's; a span where one is current."""
        await self._asked(command, super().executemany(command, args, **options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        """As asyncpg's; a span where one is current."""
        return await self._asked(query, super().fetch(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's; a span where one is current."""
        return await self._asked(query, super().fetchval(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's; a span where one is current."""
        return await self._asked(query, super().fetchrow(query, *args, **options))

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        """As asyncpg's; a span where one is current."""
        return await self._asked(
            f"COPY {table_name} FROM STDIN", super().copy_to_table(table_name, **options)
        )

    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's; a span where one is current."""
        return await self._asked(
            f"COPY ({query}) TO STDOUT", super().copy_from_query(query, *args, **options)
        )

    async def _asked(self, query: str, answer: Awaitable[T]) -> T:
        span = tracing.start("", "client")
        if span is None:
            return await answer
        try:
            return await answer
        except BaseException as error:
            span.error = tracing.error_name(error)
            if sqlstate := getattr(error, "sqlstate", None):
                span.attributes["db.response.status_code"] = sqlstate
            raise
        finally:
            span.end()
            self._describe(span, query)

    def _describe(self, span: tracing.Span, query: str) -> None:
        statement = described(query)
        span.name = statement.summary or _SYSTEM
        attributes = span.attributes
        attributes["db.system.name"] = _SYSTEM
        attributes["db.query.text"] = statement.text
        attributes["db.operation.name"] = statement.operation
        attributes["db.query.summary"] = statement.summary
        if statement.target:
            attributes["db.collection.name"] = statement.target
        inner: Any = self
        attributes["db.namespace"] = inner._params.database or ""
        address = inner._addr
        if isinstance(address, str):
            # A socket in the file system: its path is the address, and there is no port.
            attributes["server.address"] = address
        else:
            attributes["server.address"], attributes["server.port"] = address[0], int(address[1])
