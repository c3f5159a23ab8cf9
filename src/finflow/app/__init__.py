"""The composition root: reads the configuration, the only place that does, and builds what runs from it."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.limits.model import Limits
from finflow.settings import SETTINGS, Setting
from finflow.telemetry.redaction import redact

if TYPE_CHECKING:
    import asyncpg

    from finflow.fx.service import FxService
    from finflow.identity.service import IdentityService
    from finflow.ledger.service import LedgerService
    from finflow.limits.service import LimitService
    from finflow.settlement.ports import Rail
    from finflow.settlement.service import SettlementService
    from finflow.telemetry.exposition import Exposition

# A worker that nobody told its address is asked by whoever runs it.
LOCAL_ISSUER: Final = "http://127.0.0.1:8400"
# What `finflow up` passes on to its workers as it is.
_LIMITS: Final = ("tenant_requests_per_s", "tenant_burst", "tenant_concurrency", "unverified_per_s")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting's value, and in `sources` where it comes from: default, environment or flag."""

    data: Path
    database_url: str | None
    port: int | None
    workers: int
    log_level: str
    log_to: str
    target: str
    keys: Path | None
    issuer: str | None
    issuers: Path | None
    tenant_requests_per_s: int
    tenant_burst: int
    tenant_concurrency: int
    unverified_per_s: int
    limits_file: Path | None
    rails_folder: Path | None
    ingress: str
    ingress_proof: Path | None
    metrics_folder: Path | None
    metrics_address: tuple[str, int] | None
    keep_commands: bool
    release: str
    trace_ratio: float
    trace_slow_ms: int
    access_log_ratio: float
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

    @property
    def keys_folder(self) -> Path:
        """Where the keys lie that sign access tokens."""
        return self.keys or self.data / "keys"

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
    if isinstance(value, tuple):
        return ":".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else redact(str(value))


def running(config: Config, **overrides: Any) -> "AbstractAsyncContextManager[Any]":
    """Everything that this configuration names, started: `async with running(config) as stack`."""
    from finflow.stack import front, service  # here, because asking for the configuration must stay fast

    settings = service.StackSettings(
        data=config.data,
        workers=config.workers,
        port=config.port,
        database_url=config.database_url,
        target=config.target,
        log_to_stdout=config.log_to == "stdout",
        keys=config.keys_folder,
        ingress=front.chosen(config.ingress),
        environment={
            **{
                f"FINFLOW_{name.upper()}": str(value)
                for name in ("issuer", "issuers", "rails_folder")
                if (value := getattr(config, name))
            },
            "FINFLOW_DATA": str(config.data),
            "FINFLOW_LOG_LEVEL": config.log_level,
            "FINFLOW_RELEASE": config.release,
            "FINFLOW_KEEP_COMMANDS": _shown(config.keep_commands) or "",
            "FINFLOW_METRICS_FOLDER": str(metrics_folder(config)),
            **{f"FINFLOW_{name.upper()}": str(getattr(config, name)) for name in _LIMITS},
        },
        metrics_folder=metrics_folder(config),
        metrics_address=config.metrics_address,
        release=config.release,
    )
    return service.running(msgspec.structs.replace(settings, **overrides))


def proof(config: Config) -> bytes | None:
    """What the ingress in front of a worker proves itself by. Raises file_unreadable."""
    if config.ingress_proof is None:
        return None
    try:
        return config.ingress_proof.read_bytes().strip() or None
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{config.ingress_proof}: {error.strerror}") from error


@asynccontextmanager
async def traced(config: Config) -> AsyncIterator[None]:
    """Background work of this process in traces, where OTEL_EXPORTER_OTLP_ENDPOINT says where they go."""
    from finflow.telemetry import instruments
    from finflow.telemetry.sampling import Sampling
    from finflow.telemetry.service import tracing_on

    def count(outcome: str, spans: int) -> None:
        instruments.SPAN[outcome].add(spans)

    sampling = Sampling(config.trace_ratio, config.trace_slow_ms)
    with tracing_on(os.environ, sampling, config.release, count):
        yield


def metrics_folder(config: Config) -> Path:
    """Where the processes of this configuration find each other's counters."""
    from finflow.telemetry.folder import folder_for

    return folder_for(config.data, config.metrics_folder)


def measuring(config: Config) -> "Exposition":
    """Begins to count where others can read it; answers what /metrics shows: this process and the others."""
    from finflow import __version__
    from finflow.telemetry import folder, vitals
    from finflow.telemetry.collecting import Collector
    from finflow.telemetry.exposition import Exposition
    from finflow.telemetry.instruments import REGISTRY

    place = metrics_folder(config)
    vitals.describe(__version__, config.release, "api")
    shared = folder.attach(REGISTRY, place, config.release)
    return Exposition(Collector(place if shared else None, REGISTRY))


class Services:
    """What one API worker works with, while it runs. Made by `services()`."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledger: "LedgerService",
        fx: "FxService",
        settlement: "SettlementService",
        limits: "LimitService",
        identity: "IdentityService",
    ) -> None:
        self._pool = pool
        self.identity = identity
        self.verifier = identity.verifier
        self.ledger = ledger
        self.limits = limits
        self.fx = fx
        self.settlement = settlement

    async def reachable(self, within_s: float) -> bool:
        """Whether the database answers within so many seconds."""
        from finflow.db.pool import acquired

        try:
            async with asyncio.timeout(within_s), acquired(self._pool) as connection:
                return bool(await connection.fetchval("SELECT true"))
        except (FinFlowError, TimeoutError):
            return False


def identified(
    config: Config, pool: "asyncpg.Pool[asyncpg.Record]"
) -> "AbstractAsyncContextManager[IdentityService]":
    """The identity service over these keys, kept up to date until the end of the block."""
    from finflow.identity.keys import KeyFolder
    from finflow.identity.service import open_identity

    own = config.issuer or LOCAL_ISSUER
    return open_identity(pool, KeyFolder(config.keys_folder), own, config.issuers)


def rails(folder: Path | None) -> "dict[str, Rail]":
    """A file rail with a breaker for each folder in this one, by its name. Raises data_unusable."""
    from finflow.kernel.clock import system_clock
    from finflow.settlement.rails import Breaker, FileRail

    try:
        places = [] if folder is None else sorted(each for each in folder.iterdir() if each.is_dir())
        return {place.name: Breaker(FileRail(place), system_clock) for place in places}
    except OSError as error:
        raise FinFlowError("data_unusable", f"{folder}: {error.strerror}", "rails_folder") from error


@asynccontextmanager
async def services(config: Config) -> AsyncIterator[Services]:
    """Opens the pool and the ledger; at the end writes what is queued, then closes both.

    Raises setting_malformed without a database URL, and database_unreachable.
    """
    from finflow.db.measured import sample
    from finflow.db.pool import open_pool  # here, because asking for the configuration must stay fast
    from finflow.db.readers import open_readers
    from finflow.fx.service import FxService
    from finflow.ledger.copy import keep_commands_whole
    from finflow.ledger.service import LedgerService
    from finflow.limits.buckets import Buckets
    from finflow.limits.service import LimitService
    from finflow.settlement.service import SettlementService
    from finflow.telemetry.vitals import watched

    if config.database_url is None:
        raise FinFlowError("setting_malformed", "FINFLOW_DATABASE_URL is not set.", "FINFLOW_DATABASE_URL")
    default = Limits(config.tenant_requests_per_s, config.tenant_burst, config.tenant_concurrency)
    keep_commands_whole(config.keep_commands)
    buckets = Buckets(config.limits_file)
    pool = await open_pool(config.database_url, application_name="finflow api")
    try:
        readers = await open_readers(config.database_url, application_name="finflow api reads")
        try:
            ledger = LedgerService(pool, readers, release=config.release)
            fx = FxService(pool, reading=readers.entered)
            settlement = SettlementService(pool, ledger, rails=rails(config.rails_folder))
            limits = LimitService(pool, buckets, default, config.unverified_per_s)
            await limits.followed()
            async with identified(config, pool) as identity, watched(ledger.sample, sample):
                yield Services(pool, ledger, fx, settlement, limits, identity)
            await ledger.close()
        finally:
            await readers.close()
    finally:
        await pool.close()
        buckets.close()
