"""What `finflow top` shows: rates and quantiles of what happened between two scrapes. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from finflow.telemetry.merging import quantile
from finflow.telemetry.samples import Scrape

_DURATION: Final = "http_server_request_duration_seconds"
_SHARES: Final = (0.5, 0.95, 0.99)
# So often a process says how much time it has used; over less the counter stands still, or leaps.
_CPU_EVERY_S: Final = 2.0


class Requests(msgspec.Struct, frozen=True):
    """Requests of a route, tenant or release; latency in milliseconds, None where nothing was measured."""

    name: str
    per_s: float
    failed_per_s: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    slow_per_s: float | None = None


class GroupCommit(msgspec.Struct, frozen=True):
    """The ledger's batches; what is per second, per batch, or waits now."""

    commands_per_s: float
    refused_per_s: float
    batches_per_s: float
    commands_per_batch: float | None
    queued: float
    queue_wait_p99_ms: float | None
    commit_p99_ms: float | None
    retries_per_s: float
    failures: float
    unknown_outcomes: float


class Processes(msgspec.Struct, frozen=True):
    """The workers together; the time they use is None where they had none to say it."""

    releases: list[str]
    workers: float
    cpu_cores: float | None
    resident_mb: float
    open_fds: float
    loop_lag_p99_ms: float | None
    connections_used: float
    connections_max: float
    connection_waits_pending: float


class Top(msgspec.Struct, frozen=True):
    """The whole screen; over so many seconds."""

    over_s: float
    all: Requests
    routes: list[Requests]
    tenants: list[Requests]
    releases: list[Requests]
    refusals_per_s: dict[str, float]
    group_commit: GroupCommit
    processes: Processes


class Span:
    """Two scrapes, and what grew between them. A counter that fell has begun anew: all of it is new."""

    def __init__(self, before: Scrape, after: Scrape) -> None:
        self._before, self.after = before, after
        self.over_s = max(after.at_s - before.at_s, 1e-3)

    def grown(self, name: str, **labels: str) -> float:
        """By how much."""
        after, before = self.after.total(name, **labels), self._before.total(name, **labels)
        return after - before if after >= before else after

    def per_s(self, name: str, **labels: str) -> float:
        """By how much a second."""
        return round(self.grown(name, **labels) / self.over_s, 3)

    def now(self, name: str, **labels: str) -> float:
        """What it is at the end."""
        return self.after.total(name, **labels)

    def quantile_ms(self, name: str, share: float, **labels: str) -> float | None:
        """The value below which so many of the new observations lie, in milliseconds."""
        edges, counts = self.after.buckets(name, **labels)
        known, earlier = self._before.buckets(name, **labels)
        if known == edges and all(new >= old for new, old in zip(counts, earlier, strict=True)):
            counts = [new - old for new, old in zip(counts, earlier, strict=True)]
        found = quantile(share, edges, counts) if edges else None
        return None if found is None else round(found * 1000, 3)

    def values(self, name: str, label: str) -> list[str]:
        """The values of a label at the end."""
        return self.after.values(name, label)


class Watch:
    """One screen after another: what happened since the scrape before."""

    def __init__(self, first: Scrape) -> None:
        self._before = self._cpu_since = first
        self._cpu_cores: float | None = None

    def next(self, after: Scrape) -> Top:
        """The screen up to this scrape. Shorter ones show the processes' time as it was last known."""
        span, cpu = Span(self._before, after), Span(self._cpu_since, after)
        self._before = after
        if cpu.over_s >= _CPU_EVERY_S:
            used_s = cpu.grown("process_cpu_seconds_total")
            self._cpu_since, self._cpu_cores = after, round(used_s / cpu.over_s, 3) if used_s else None
        return _top(span, self._cpu_cores)


def _top(span: Span, cpu_cores: float | None) -> Top:
    refusals = {code: span.per_s("finflow_http_problems_total", code=code) for code in _codes(span)}
    processes = _processes(span, cpu_cores)
    return Top(
        round(span.over_s, 3),
        _requests(span, "all"),
        _busiest([_route(span, *pair) for pair in _routes(span)]),
        _busiest(
            [_tenant(span, tenant) for tenant in span.values("finflow_tenant_requests_total", "tenant")]
        ),
        _releases(span, processes.releases),
        {code: rate for code, rate in refusals.items() if rate},
        _group_commit(span),
        processes,
    )


def _codes(span: Span) -> list[str]:
    return span.values("finflow_http_problems_total", "code")


def _requests(span: Span, shown: str, **labels: str) -> Requests:
    failed = sum(
        span.per_s("http_server_requests_total", status_class=each, **labels) for each in ("5xx", "none")
    )
    quantiles = [span.quantile_ms(_DURATION, share, **labels) for share in _SHARES]
    return Requests(shown, span.per_s(f"{_DURATION}_count", **labels), round(failed, 3), *quantiles)


def _releases(span: Span, running: Sequence[str]) -> list[Requests]:
    """Those that run or had requests; what ended ones have counted is kept for long."""
    known = span.values(f"{_DURATION}_count", "release")
    rows = [_requests(span, name, release=name) for name in sorted({*known, *running})]
    return [row for row in rows if row.per_s or row.name in running]


def _routes(span: Span) -> list[tuple[str, str]]:
    samples = span.after.of(f"{_DURATION}_count")
    return sorted({(each.labels["http_request_method"], each.labels["http_route"]) for each in samples})


def _route(span: Span, method: str, route: str) -> Requests:
    return _requests(span, f"{method} {route}", http_request_method=method, http_route=route)


def _tenant(span: Span, tenant: str) -> Requests:
    name = "finflow_tenant_requests_total"
    good, slow, failed = (
        span.per_s(name, tenant=tenant, outcome=each) for each in ("good", "slow", "failed")
    )
    return Requests(tenant, round(good + slow + failed, 3), failed, slow_per_s=slow)


def _busiest(rows: Sequence[Requests]) -> list[Requests]:
    """Those with any requests, most first."""
    return sorted((row for row in rows if row.per_s), key=lambda row: (-row.per_s, row.name))


def _group_commit(span: Span) -> GroupCommit:
    batches = span.grown("finflow_ledger_batch_commands_count")
    commands = span.grown("finflow_ledger_batch_commands_sum")
    return GroupCommit(
        span.per_s("finflow_ledger_batch_commands_sum"),
        span.per_s("finflow_ledger_commands_total", outcome="refused"),
        span.per_s("finflow_ledger_batch_commands_count"),
        round(commands / batches, 2) if batches else None,
        span.now("finflow_ledger_queued_commands"),
        span.quantile_ms("finflow_ledger_queue_wait_seconds", 0.99),
        span.quantile_ms("finflow_ledger_commit_duration_seconds", 0.99),
        span.per_s("finflow_ledger_batch_retries_total"),
        span.now("finflow_ledger_write_failures_total"),
        span.now("finflow_ledger_unknown_outcomes_total"),
    )


def _processes(span: Span, cpu_cores: float | None) -> Processes:
    workers = span.after.of("finflow_processes", role="api")
    return Processes(
        sorted({each.labels["release"] for each in workers if each.value}),
        sum(each.value for each in workers),
        cpu_cores,
        round(span.now("process_resident_memory_bytes") / 2**20, 1),
        span.now("process_open_fds"),
        span.quantile_ms("finflow_event_loop_lag_seconds", 0.99),
        span.now("db_client_connection_count", db_client_connection_state="used"),
        span.now("db_client_connection_max"),
        span.now("db_client_connection_pending_requests"),
    )
