"""The composition root: reads the configuration, the only place that does, and builds what runs from it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.telemetry.redaction import redact

if TYPE_CHECKING:
    import asyncpg

    from finflow.fx.service import FxService
    from finflow.ledger.service import LedgerService

_LEVELS: Final = ("debug", "info", "warning", "error")


class Setting(msgspec.Struct, frozen=True):
    """One setting: its name, what it means, its default in words, and how its text becomes its value.

    The flag is `--name`, the environment variable FINFLOW_NAME. `parse` raises ValueError with a sentence.
    """

    name: str
    meaning: str
    default: Callable[[], Any]
    parse: Callable[[str], Any]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"FINFLOW_{self.name.upper()}"


def _default_data() -> Path:
    import platformdirs  # here, because only a run without --data needs it

    return Path(platformdirs.user_data_dir("finflow"))


def _default_target() -> str:
    return "finflow.api.asgi:application"


def _nothing() -> None:
    return None


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("it is not a path")
    return Path(text).expanduser().absolute()


def _database_url(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it does not begin with postgresql://")
    return text


def _between(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"it is not a whole number from {least} to {most}")
        return int(text)

    return parse


def _level(text: str) -> str:
    if text.lower() not in _LEVELS:
        raise ValueError(f"it is none of {', '.join(_LEVELS)}")
    return text.lower()


def _target(text: str) -> str:
    if not all(part.isidentifier() for part in text.replace(":", ".", 1).split(".")) or ":" not in text:
        raise ValueError("it does not look like package.module:name")
    return text


_port = _between(1, 65535)
_count = _between(1, 256)

SETTINGS: Final = (
    Setting("data", "The folder of the embedded database, its logs and its state.", _default_data, _path),
    Setting(
        "database_url", "A PostgreSQL >= 15 to use instead of the embedded one.", _nothing, _database_url
    ),
    Setting("port", "The API's port; by default 8400, or a free one if that is taken.", _nothing, _port),
    Setting("workers", "How many API worker processes run.", lambda: os.cpu_count() or 1, _count),
    Setting("log_level", "The least severe log lines that are written.", lambda: "info", _level),
    Setting("target", "The ASGI application that the workers serve.", _default_target, _target),
)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting's value, and in `sources` where it comes from: default, environment or flag."""

    data: Path
    database_url: str | None
    port: int | None
    workers: int
    log_level: str
    target: str
    sources: Mapping[str, str]

    @classmethod
    def load(cls, flags: Mapping[str, object] = {}, environ: Mapping[str, str] | None = None) -> "Config":
        """Flags that are not None win over FINFLOW_* variables, and those over defaults.

        Raises setting_malformed, which names the flag or the variable.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for setting in SETTINGS:
            values[setting.name], sources[setting.name] = _value(setting, flags, environ)
        return cls(**values, sources=sources)

    def rendered(self) -> list[dict[str, str | None]]:
        """Name, value, source and meaning of every setting, passwords masked; what `finflow info` shows."""
        return [
            {
                "name": setting.name,
                "value": _shown(getattr(self, setting.name)),
                "source": self.sources[setting.name],
                "meaning": setting.meaning,
            }
            for setting in SETTINGS
        ]


def _value(setting: Setting, flags: Mapping[str, object], environ: Mapping[str, str]) -> tuple[Any, str]:
    flag = flags.get(setting.name)
    if flag is not None:
        return _parsed(setting, str(flag), f"--{setting.name.replace('_', '-')}"), "flag"
    # An empty variable is how shells and compose files say "unset".
    if text := environ.get(setting.variable):
        return _parsed(setting, text, setting.variable), "environment"
    return setting.default(), "default"


def _parsed(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        raise FinFlowError("setting_malformed", f"{where}={redact(text)}: {error}.", where) from error


def _shown(value: object) -> str | None:
    return None if value is None else redact(str(value))


def running(config: Config, **overrides: Any) -> "AbstractAsyncContextManager[Any]":
    """Everything that this configuration names, started: `async with running(config) as stack`."""
    from finflow.stack import service  # here, because asking for the configuration must stay fast

    settings = service.StackSettings(
        data=config.data,
        workers=config.workers,
        port=config.port,
        database_url=config.database_url,
        target=config.target,
        environment={"FINFLOW_DATA": str(config.data), "FINFLOW_LOG_LEVEL": config.log_level},
    )
    return service.running(msgspec.structs.replace(settings, **overrides))


class Services:
    """What one API worker works with, while it runs. Made by `services()`."""

    def __init__(
        self, pool: "asyncpg.Pool[asyncpg.Record]", ledger: "LedgerService", fx: "FxService"
    ) -> None:
        self._pool = pool
        self.ledger = ledger
        self.fx = fx

    async def reachable(self, within_s: float) -> bool:
        """Whether the database answers within so many seconds."""
        from finflow.db.pool import acquired

        try:
            async with asyncio.timeout(within_s), acquired(self._pool) as connection:
                return bool(await connection.fetchval("SELECT true"))
        except (FinFlowError, TimeoutError):
            return False


@asynccontextmanager
async def services(config: Config) -> AsyncIterator[Services]:
    """Opens the pool and the ledger; at the end writes what is queued, then closes both.

    Raises setting_malformed without a database URL, and database_unreachable.
    """
    from finflow.db.pool import open_pool  # here, because asking for the configuration must stay fast
    from finflow.fx.service import FxService
    from finflow.ledger.service import LedgerService

    if config.database_url is None:
        raise FinFlowError("setting_malformed", "FINFLOW_DATABASE_URL is not set.", "FINFLOW_DATABASE_URL")
    pool = await open_pool(config.database_url, application_name="finflow api")
    try:
        ledger = LedgerService(pool)
        yield Services(pool, ledger, FxService(pool))
        await ledger.close()
    finally:
        await pool.close()
