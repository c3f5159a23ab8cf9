"""Reads what the workers count, beside them: on a port of its own, and past their end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from finflow.kernel.errors import FinFlowError
from finflow.stack.meter import StackMeter
from finflow.telemetry import folder, side_port
from finflow.telemetry.collecting import Collector
from finflow.telemetry.exposition import Exposition


@asynccontextmanager
async def measuring(
    meter: StackMeter, place: Path, data: Path, address: tuple[str, int] | None, release: str
) -> AsyncIterator[int | None]:
    """For this block: the port at which /metrics is answered, if an address is given.

    What the workers counted stays when they have ended: `place` is emptied into the data folder at the end,
    and filled from it at the beginning. Raises port_taken.
    """
    with folder.kept(place, data):
        folder.attach(meter.registry, place, release)
        try:
            if address is None:
                yield None
                return
            async with _serving(place, *address) as port:
                yield port
        finally:
            meter.registry.release()


@asynccontextmanager
async def _serving(place: Path, host: str, port: int) -> AsyncIterator[int]:
    serving = side_port.serving(Exposition(Collector(place)), host, port)
    try:
        bound = await serving.__aenter__()
    except OSError as error:
        raise FinFlowError("port_taken", f"{host}:{port}: {error.strerror}") from error
    try:
        yield bound
    finally:
        await serving.__aexit__(None, None, None)
