"""Runs a verification: side by side what waits for nothing, each check in its time, all before the end."""

import asyncio
import secrets as dice
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.telemetry import outbound
from finflow.telemetry.redaction import redact
from finflow.verification import certificates, databases, heartbeats, programs, progress, requests
from finflow.verification.model import (
    Failed,
    Missing,
    NothingToCheck,
    Outcome,
    Report,
    Status,
    Unanswered,
    dependencies,
    masked,
    selected,
    used_by,
)
from finflow.verification.scene import Scene, reason
from finflow.verification.spec import (
    AnyCheck,
    CertificateCheck,
    CommandCheck,
    HeartbeatCheck,
    HttpCheck,
    ProgressCheck,
    Spec,
    SqlCheck,
)

DEADLINE_S: Final = 300.0
_LOOKS: Final[Mapping[type, Callable[..., Awaitable[str]]]] = {
    HttpCheck: requests.look,
    CertificateCheck: certificates.look,
    SqlCheck: databases.look,
    ProgressCheck: progress.look,
    HeartbeatCheck: heartbeats.look,
    CommandCheck: programs.look,
}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How a spec is run: against which service, which of its checks, with which variables and environment.

    `values` are the spec's inputs; `headers` go with every request to the service. `told` hears each outcome.
    `before` are outcomes of what was done to get here, which belong in the report.
    """

    spec: Spec
    url: str = ""
    tags: Sequence[str] = ()
    values: Mapping[str, str] = {}
    environ: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    deadline_s: float = DEADLINE_S
    told: Callable[[Outcome], None] = lambda _: None
    before: Sequence[Outcome] = ()


async def verify(run: Run) -> Report:
    """Every selected check, once. Never raises for what a service does: that is what the report says."""
    began_s, at = time.monotonic(), datetime.now(UTC)
    name = dice.token_hex(8)
    checks = selected(run.spec, run.tags)
    async with _scene(run, name, at) as scene:
        for each in run.before:
            run.told(each)
        outcomes = [*run.before, *await _Running(run, checks, scene).outcomes()]
    return Report(
        name=run.spec.name,
        url=scene.safe(scene.url),
        run=name,
        at=at.isoformat().replace("+00:00", "Z"),
        duration_s=round(time.monotonic() - began_s, 3),
        outcomes=outcomes,
    )


@asynccontextmanager
async def _scene(run: Run, name: str, at: datetime) -> AsyncIterator[Scene]:
    url = (run.url or run.spec.url or "").rstrip("/")
    built_in = {"run": name, "now": at.isoformat().replace("+00:00", "Z"), "url": url}
    values = {**run.spec.variables, **run.values, **built_in}
    hidden = {values[each] for each in run.spec.secrets if values.get(each)} | _from_environment(run)
    connector = aiohttp.TCPConnector(limit=run.spec.at_once * 2)
    # Every check has a deadline of its own; cookies of one check must not follow the next.
    settings: Any = {"connector": connector, "timeout": aiohttp.ClientTimeout(total=None)}

    def shown(url: str) -> str:
        return redact(masked(url, hidden))

    async with outbound.session(shown, **settings, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Scene(session, url, values, run.environ, hidden, run.headers)


def _from_environment(run: Run) -> set[str]:
    """What the spec's checks take from the environment is secret, whatever it is."""
    names = {name[4:] for check in run.spec.checks for name in used_by(check) if name.startswith("env.")}
    return {run.environ[name] for name in names if run.environ.get(name)}


class _Running:
    """One run's checks as tasks: each waits for what it needs, then for a place among those at once."""

    def __init__(self, run: Run, checks: Sequence[AnyCheck], scene: Scene) -> None:
        self._run = run
        self._checks = checks
        self._scene = scene
        self._waits = dependencies(run.spec)
        self._places = asyncio.Semaphore(run.spec.at_once)
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}
        self._until_s = time.monotonic() + run.deadline_s

    async def outcomes(self) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            for check in self._checks:
                self._tasks[check.id] = group.create_task(self._told(check))
        return [self._tasks[check.id].result() for check in self._checks]

    async def _told(self, check: AnyCheck) -> Outcome:
        outcome = await self._outcome(check)
        self._run.told(outcome)
        return outcome

    async def _outcome(self, check: AnyCheck) -> Outcome:
        for name in sorted(self._waits[check.id]):
            # Whoever is cut off must not take those down that it waits for.
            before = await asyncio.shield(self._tasks[name])
            if before.status is not Status.PASSED and not check.cleans_up:
                return self._said(check, Status.SKIPPED, f"not run: {name} {before.status}", 0.0)
        async with self._places:
            began_s = time.monotonic()
            status, words, answered = await self._look(check)
            return self._said(check, status, words, time.monotonic() - began_s, answered)

    async def _look(self, check: AnyCheck) -> tuple[Status, str, bool | None]:
        asks = isinstance(check, HttpCheck) and check.path is not None
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            return Status.FAILED, "not run: the time of the whole verification is over", None
        allowed_s = min(check.timeout_s + getattr(check, "retry_for_s", 0.0), left_s)
        try:
            async with asyncio.timeout(allowed_s):
                words = await _LOOKS[type(check)](self._scene.filled(check), self._scene)
                return Status.PASSED, words, asks or None
        except Missing as error:
            return Status.SKIPPED, _not_given(error.name), None
        except NothingToCheck as error:
            return Status.SKIPPED, str(error), None
        except TimeoutError:
            return Status.FAILED, f"no answer within {allowed_s:.3g} s", False if asks else None
        except Unanswered as error:
            return Status.FAILED, str(error), False if asks else None
        except (Failed, msgspec.ValidationError) as error:
            return Status.FAILED, reason(error), asks or None

    def _said(
        self, check: AnyCheck, status: Status, words: str, duration_s: float, answered: bool | None = None
    ) -> Outcome:
        return Outcome(
            id=check.id,
            kind=str(check.__struct_config__.tag),
            title=check.title,
            tags=check.tags,
            status=status,
            words=self._scene.safe(words),
            duration_s=round(duration_s, 3),
            answered=answered,
        )


def _not_given(name: str) -> str:
    if name.startswith("env."):
        return f"the environment variable {name[4:]} is not set"
    return "no URL of the service is given" if name == "url" else f"the input {name!r} is not given"


async def check_reachable(url: str, within_s: float = 5.0) -> None:
    """Raises service_unreachable, at once, where nobody listens; setting_malformed for what is no URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise FinFlowError("setting_malformed", f"{redact(url)} is not a URL: {error}", "--url") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FinFlowError("setting_malformed", f"{redact(url)!r} is not an http:// or https:// URL", "--url")
    try:
        async with asyncio.timeout(within_s):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        raise FinFlowError("service_unreachable", f"{redact(url)}: {reason(error)}") from error
