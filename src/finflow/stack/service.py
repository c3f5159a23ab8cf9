"""The whole of it: a database, its schema, the API on top; started, kept running, stopped.

async with running(StackSettings(data=Path("/srv/finflow"), workers=2)) as stack:
    print(stack.url, stack.database_url, stack.worker_pids)
    await stack.broken()
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from finflow.db.migrations import migrate
from finflow.db.pool import check_version, connect
from finflow.identity.keys import KeyFolder
from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Endpoint
from finflow.stack import ports
from finflow.stack.fleet import Fleet
from finflow.stack.folder import DataFolder, State
from finflow.stack.front import INNER_HOST, Front, Kind
from finflow.stack.measuring import measuring
from finflow.stack.meter import StackMeter
from finflow.stack.postgres import EmbeddedPostgres
from finflow.stack.processes import Process, identify
from finflow.telemetry import levels
from finflow.telemetry.folder import folder_for
from finflow.telemetry.redaction import redact

_log = logging.getLogger(__name__)


class StackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. Without `database_url` an embedded PostgreSQL runs in the data folder.

    `port` None means the default port, or a free one where that is taken; `environment` is added to the
    workers'; `keys` is the folder of the keys that sign access tokens, in the data folder by default;
    `durable=False` is for tests of things other than durability. With `log_to_stdout` the workers' lines
    go to our standard output, not to a file of the data folder. `metrics_folder` is where the workers
    count; None means the one that belongs to the data folder. With `ingress` clients come to a router at
    `port`, and the workers listen on a loopback port of their own.
    """

    data: Path
    workers: int = 2
    host: str = "127.0.0.1"
    port: int | None = None
    database_url: str | None = None
    target: str = "finflow.api.asgi:application"
    keys: Path | None = None
    environment: Mapping[str, str] = {}
    durable: bool = True
    log_to_stdout: bool = False
    metrics_folder: Path | None = None
    metrics_address: tuple[str, int] | None = None
    release: str = ""
    ingress: Kind | None = None


class Stack:
    """What runs, while it runs. Made by `running()`."""

    def __init__(self, settings: StackSettings, folder: DataFolder) -> None:
        self.settings = settings
        self.folder = folder
        self.postgres: EmbeddedPostgres | None = None
        self.fleet: Fleet | None = None
        self.front: Front | None = None
        self.migrations: list[str] = []
        self.database_url = settings.database_url or ""
        self.meter = StackMeter()
        self.metrics_port: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._public: socket.socket | None = None
        self._memory = folder.memory_file()
        self.keys = settings.keys or folder.root / "keys"
        self._url = ""
        # The URL that access tokens are from and for.
        self.issuer = ""

    @property
    def url(self) -> str:
        """Where the API answers: the ingress, if there is one, else the workers."""
        assert self.fleet is not None, "the stack was not started"
        return self._url or self.fleet.url

    @property
    def worker_pids(self) -> list[int]:
        """The processes that answer requests."""
        return self.fleet.worker_pids if self.fleet else []

    @property
    def postgres_process(self) -> Process | None:
        """The embedded server's first process, or None where another server is used."""
        return self.postgres.process if self.postgres else None

    async def broken(self) -> None:
        """Waits for as long as the stack keeps itself running, and raises what ended that."""
        await (self._keeper or asyncio.get_running_loop().create_future())

    async def start_database(self) -> None:
        """Starts the embedded server or checks the given one, and migrates its schema."""
        if self.settings.database_url is None:
            self.postgres = EmbeddedPostgres(self.folder, durable=self.settings.durable)
            await self.postgres.start()
            self.database_url = self.postgres.url()
        connection = await connect(self.database_url, application_name="finflow up", command_timeout_s=None)
        try:
            await check_version(connection)
            self.migrations = await migrate(connection)
        finally:
            await connection.close(timeout=5)

    async def stop_database(self) -> None:
        """Stops the embedded server, if there is one."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.postgres:
            await self.postgres.stop()

    async def start_api(self) -> None:
        """Starts the workers; returns when they are ready."""
        bound = ports.reserve(self.settings.host, self.settings.port)
        own = ports.url_of(*bound.getsockname()[:2])
        if self.settings.ingress:
            bound = await self._put_in_front(self.settings.ingress, bound)
        # What an earlier run left there counted for that run.
        self._memory.unlink(missing_ok=True)
        KeyFolder(self.keys).ensure(time.time())
        self.issuer = self.settings.environment.get("FINFLOW_ISSUER", own)
        environment = {
            **self.settings.environment,
            "FINFLOW_ISSUER": self.issuer,
            "FINFLOW_KEYS": str(self.keys),
            "FINFLOW_DATABASE_URL": self.database_url,
            "FINFLOW_LIMITS_FILE": str(self._memory),
            "FINFLOW_INGRESS_PROOF": str(self.front.proof) if self.front else "",
        }
        self.fleet = Fleet(
            self.settings.target,
            bound,
            self.settings.workers,
            environment,
            None if self.settings.log_to_stdout else self.folder.logs / "api.log",
            self.write_state,
            self.meter.worker_ended,
        )
        self._bound = bound
        await self.fleet.start()
        if self.front and self._public:
            self._public.close()
            await self.front.start(Endpoint(INNER_HOST, self.fleet.port), self.write_state)
            self.write_state()
        if self.postgres:
            self._keeper = asyncio.create_task(self._keep_postgres(self.postgres))

    async def _put_in_front(self, kind: Kind, public: socket.socket) -> socket.socket:
        """Keeps the public port for the ingress; returns what the workers are to be bound to."""
        host, port = public.getsockname()[:2]
        self._public, self._url = public, ports.url_of(host, port)
        self.front = Front(kind, self.folder, host, port)
        self.front.prepare()
        return ports.reserve(INNER_HOST, self.front.inner_port())

    async def end_old_front(self) -> None:
        """Ends the ingress that a crash has left; before its port is looked at."""
        if self.settings.ingress and await Front(self.settings.ingress, self.folder, "", 0).end_orphan():
            _log.warning("ended an ingress that a crash had left")

    async def stop_api(self) -> None:
        """Stops the ingress, then the workers, and gives the port back."""
        if self._public:
            self._public.close()
        if self.front:
            await self.front.stop()
        if self.fleet:
            await self.fleet.stop()
            self._bound.close()
            self._memory.unlink(missing_ok=True)

    def write_state(self) -> None:
        """Says in the data folder what runs now."""
        up = identify(os.getpid())
        assert up is not None, "this process runs"
        assert self.fleet is not None, "the workers come last"
        state = State(
            up,
            self.url,
            redact(self.database_url),
            self.postgres_process,
            self.fleet.processes,
            self.issuer,
            str(self.keys),
            self.front.process if self.front else None,
            self.settings.ingress,
            self.fleet.url,
        )
        self.folder.write_state(state)

    async def _keep_postgres(self, postgres: EmbeddedPostgres) -> None:
        """Starts the server again whenever somebody kills it; the workers reconnect by themselves."""
        while True:
            status = await postgres.exited()
            _log.error("postgres ended", extra={"status": status})
            await postgres.start()
            self.write_state()


def _measured(stack: Stack) -> AbstractAsyncContextManager[int | None]:
    settings = stack.settings
    place = folder_for(settings.data, settings.metrics_folder)
    return measuring(stack.meter, place, settings.data, settings.metrics_address, settings.release)


@asynccontextmanager
async def running(settings: StackSettings) -> AsyncIterator[Stack]:
    """Starts everything, yields when it is ready, and stops everything at the end of the block.

    Call it from the thread that lives longest (the main one): the kernel ends the children with it.
    Raises stack_running, port_taken, database_full, data_unusable, postgres_*, migration_*, service_failed.
    """
    folder = DataFolder(settings.data)
    folder.create()
    if not folder.lock():
        raise already_running(folder)
    stack = Stack(settings, folder)
    async with AsyncExitStack() as undo:
        undo.callback(folder.unlock)
        undo.callback(folder.clear_state)
        # What somebody asked of the FinFlow that ran here before does not bind this one.
        levels.withdraw(folder.root)
        undo.push_async_callback(stack.stop_database)
        stack.metrics_port = await undo.enter_async_context(_measured(stack))
        await stack.end_old_front()
        await stack.start_database()
        undo.push_async_callback(stack.stop_api)
        await stack.start_api()
        yield stack


@asynccontextmanager
async def database(data: Path, url: str | None = None) -> AsyncIterator[str]:
    """The URL of the given database, or of the data folder's embedded one, started for this block alone.

    Raises stack_running where another process runs on the folder, and what `running()` raises.
    """
    if url is not None:
        yield url
        return
    folder = DataFolder(data)
    folder.create()
    if not folder.lock():
        raise already_running(folder)
    server = EmbeddedPostgres(folder)
    try:
        await server.start()
        yield server.url()
    finally:
        await server.stop()
        folder.unlock()


def already_running(folder: DataFolder) -> FinFlowError:
    """The stack_running error that names who runs there."""
    state = folder.read_state()
    if state is None:
        return FinFlowError("stack_running", f"{folder.root} is being started or stopped right now.")
    return FinFlowError("stack_running", f"Process {state.up.pid} runs on {folder.root} at {state.url}.")
