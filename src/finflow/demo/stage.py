"""Where the demonstration happens: a database, a legacy fleet behind a router, and the keys of all tokens."""

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from finflow.app import Config
from finflow.db.migrations import migrate
from finflow.identity.keys import KeyFolder
from finflow.rollout.fleet_spec import CommandFleet
from finflow.rollout.spec import ReleaseSpec
from finflow.stack import ports
from finflow.stack.folder import DataFolder, State
from finflow.stack.processes import identify
from finflow.stack.service import database
from finflow.telemetry.redaction import redact

SERVICE: Final = "bank"
SCHEMA: Final = Path(__file__).parent / "schema"
PLAIN: Final = "finflow.api.asgi:application"
PROCESSES: Final = 2
CONTACTS: Final = 20_000
_DATABASE_URL: Final = "FINFLOW_DATABASE_URL"
_DRAIN_S: Final = 20.0
_CONTACTS: Final = """
create table if not exists demo_contacts (contact_no integer primary key, name text not null)
"""
_FILL: Final = """
insert into demo_contacts (contact_no, name)
select n, 'Customer ' || n from generate_series(1, $1) n on conflict do nothing
"""


class Stage(msgspec.Struct, frozen=True):
    """What the acts need to know of it. `url` is the router's: whoever serves behind it."""

    config: Config
    data: Path
    database_url: str
    url: str
    host: str
    port: int
    # Gives up the port, which is kept until the router takes it.
    free_port: Callable[[], None]

    def release(self, name: str, target: str = PLAIN, **environment: str) -> ReleaseSpec:
        """A release of the bank, as processes of a fleet."""
        own = {
            "FINFLOW_DATA": str(self.data),
            "FINFLOW_ISSUER": self.url,
            "FINFLOW_KEYS": str(self.config.keys_folder),
            "FINFLOW_LIMITS_FILE": str(DataFolder(self.data).memory_file()),
            "FINFLOW_METRICS_FOLDER": str(self.data / "metrics"),
            "FINFLOW_LOG_LEVEL": "warning",
            "FINFLOW_KEEP_COMMANDS": "yes",
            "FINFLOW_INGRESS_PROOF": str(self.data / "ingress" / SERVICE / "proof"),
        }
        program = (sys.executable, "-P", "-m", "finflow.stack.serve", target, "127.0.0.1", "{port}")
        fleet = CommandFleet(
            command=program,
            processes=PROCESSES,
            ready_path="/readyz",
            environment=own | environment,
            # It may hold a password, and a rollout's whole spec stands in its log.
            environment_from=(_DATABASE_URL,),
            drain_s=_DRAIN_S,
        )
        return ReleaseSpec(release=name, fleet=fleet)


@asynccontextmanager
async def staged(config: Config) -> AsyncIterator[Stage]:
    """The stage with its database running; what serves on it is up to the acts.

    While it stands, other commands of this process find the database by the environment, and other processes
    what runs by the data folder.
    """
    folder = DataFolder(config.data)
    bound = ports.reserve("127.0.0.1", config.port)
    host, port = bound.getsockname()[:2]
    async with AsyncExitStack() as undo:
        url = await undo.enter_async_context(database(config.data, config.database_url))
        await migrate(url)
        KeyFolder(config.keys_folder).ensure(time.time())
        undo.enter_context(_environment({_DATABASE_URL: url, "FINFLOW_DATA": str(config.data)}))
        undo.callback(bound.close)
        stage = Stage(config, config.data, url, ports.url_of(host, port), host, port, bound.close)
        folder.create()
        folder.write_state(_state(stage))
        undo.callback(folder.clear_state)
        yield stage


def _state(stage: Stage) -> State:
    this = identify(os.getpid())
    assert this is not None, "this process runs"
    return State(
        this,
        stage.url,
        redact(stage.database_url),
        this if stage.config.database_url is None else None,
        issuer=stage.url,
        keys=str(stage.config.keys_folder),
    )


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """Some variables of this process's environment, put back at the end of the block."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def add_contacts(database_url: str) -> None:
    """The table that the good release's schema change is about."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_CONTACTS)
        await connection.execute(_FILL, CONTACTS)
    finally:
        await connection.close(timeout=5)
