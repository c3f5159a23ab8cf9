"""The application without metrics and traces, for benchmarks to compare with; never for anybody else.

`bench.bare:application` in a worker of its own: what counts is taken out where it is called. There is no
setting for this.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from finflow import app as root
from finflow.api import asgi
from finflow.api.envelope import Envelope
from finflow.db import measured as pools
from finflow.ledger import meter
from finflow.telemetry import logs, vitals


def _nothing(*_: object) -> None:
    return None


@asynccontextmanager
async def _unwatched(*_: Callable[[], None]) -> AsyncIterator[None]:
    yield


def _silence() -> None:
    """Take out whatever counts."""
    meter.commit = meter.committed = meter.failed = meter.again = _nothing  # type: ignore[assignment]
    vitals.watched = _unwatched  # type: ignore[assignment]
    del pools.MeasuredPool._acquire  # what is left is asyncpg's own
    assert pools.MeasuredPool._acquire is asyncpg.Pool._acquire


def bare() -> Envelope:
    """The application that the FINFLOW_* variables describe, without what watches it."""
    config = root.Config.load()
    logs.configure(config.log_level)
    _silence()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with root.services(config) as found:
            asgi._rest_the_collector()
            yield found

    envelope = asgi.build(opened)
    assert isinstance(envelope, Envelope)
    envelope._watch = envelope._metrics = None
    return envelope


application = bare()
