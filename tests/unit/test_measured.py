"""How a request is counted, by an application that answers as it is told."""

import asyncio
from typing import Any

import pytest

from finflow.api.asgi import HANDLERS
from finflow.api.envelope import Envelope
from finflow.api.measured import Templates
from finflow.api.metrics_page import MetricsPage
from finflow.api.watching import Watch
from finflow.telemetry import instruments, tracing
from finflow.telemetry.collecting import Collector
from finflow.telemetry.exposition import pieces
from finflow.telemetry.metrics import OTHER, Registry

Json = dict[str, Any]


class Told:
    """Answers with this status, or not at all, or breaks off; names this tenant."""

    def __init__(self, status: int = 200, tenant: str | None = None, template: str | None = None) -> None:
        self.status, self.tenant, self.template = status, tenant, template
        self.error: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.tenant:
            scope.setdefault("state", {})["tenant_id"] = self.tenant
        if self.template:
            scope["path_template"] = self.template
        if self.error:
            raise self.error
        if self.status:
            await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await send({"type": "http.response.body", "body": b"b"})


WATCH = Watch(HANDLERS, "1.0")


ENVELOPES: list[Envelope] = []


def at_work() -> int:
    """Requests that have come and have no answer yet."""
    return sum(each.underway for each in ENVELOPES)


async def ask(app: Told, method: str = "GET", path: str = "/healthz", **scope: Any) -> list[Json]:
    sent: list[Json] = []

    async def send(message: Json) -> None:
        sent.append(message)

    whole = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "client": ("127.0.0.1", 1),
    } | scope
    await watched(app)(whole, None, send)
    return sent


def watched(app: Told) -> Envelope:
    ENVELOPES.append(Envelope(app, watch=WATCH, metrics=MetricsPage()))
    return ENVELOPES[-1]


def counted(method: str, route: str, status_class: str) -> float:
    return instruments.REQUESTS.bind(method, route, status_class).value


@pytest.mark.parametrize(
    ("status", "status_class", "outcome"),
    [
        (201, "2xx", "good"),
        (304, "3xx", "good"),
        (422, "4xx", "good"),
        (503, "5xx", "failed"),
        (0, "none", "failed"),
    ],
)
async def test_every_answer_counts_once_in_its_class_and_for_its_tenant(
    status: int, status_class: str, outcome: str
) -> None:
    tenant = instruments.TENANT_REQUESTS.bind("ten_unit", outcome)
    before = counted("GET", "/healthz", status_class), tenant.value
    await ask(Told(status, "ten_unit"))
    assert (counted("GET", "/healthz", status_class), tenant.value) == (before[0] + 1, before[1] + 1)
    assert at_work() == 0


async def test_what_is_cancelled_counts_as_no_answer_and_goes_on_to_whoever_asked() -> None:
    app = Told()
    app.error = asyncio.CancelledError("the client is gone")
    before = counted("GET", "/healthz", "none")
    with pytest.raises(asyncio.CancelledError):
        await ask(app)
    assert counted("GET", "/healthz", "none") == before + 1
    assert at_work() == 0


async def test_what_breaks_counts_as_the_answer_that_stands_in_for_it() -> None:
    app = Told()
    app.error = ValueError("broken")
    before = counted("GET", "/healthz", "5xx")
    assert (await ask(app))[0]["status"] == 500
    assert counted("GET", "/healthz", "5xx") == before + 1
    assert at_work() == 0


async def test_requests_that_are_being_worked_at_are_counted_while_they_are() -> None:
    seen: list[int] = []

    class Slow(Told):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0)
            seen.append(at_work())
            await super().__call__(scope, receive, send)

    await asyncio.gather(ask(Slow()), ask(Slow()), ask(Slow()))
    assert (seen, at_work()) == ([3, 2, 1], 0)


async def test_tenants_without_number_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, app = Registry(), Told()
    limit = instruments.MAX_TENANTS * len(instruments.TENANT_OUTCOMES)
    family = registry.counter(
        "t_tenants", "Requests.", ("tenant", "outcome"), open_labels=("tenant",), limit=limit
    )
    monkeypatch.setattr(instruments, "REGISTRY", registry)
    monkeypatch.setattr(instruments, "TENANT_REQUESTS", family)
    bound = instruments.MAX_TENANTS * len(instruments.TENANT_OUTCOMES) + len(instruments.TENANT_OUTCOMES)
    watch = Watch(HANDLERS, "1.0")
    enveloped = Envelope(app, watch=watch)

    async def send(message: Json) -> None:
        del message

    for number in range(instruments.MAX_TENANTS + 200):
        app.tenant = f"ten_flood_{number}"
        await enveloped({"type": "http", "method": "GET", "path": "/healthz", "headers": []}, None, send)
    assert len(family) <= bound
    assert len(watch._counts.known_outcomes) <= instruments.MAX_TENANTS
    assert sum(each.value for each in family._bound.values()) == instruments.MAX_TENANTS + 200
    # Those of nobody have a series of their own, which leaves one tenant less.
    assert family.bind(OTHER, "good").value == registry._overflows.bind("t_tenants").value == 201


def test_every_route_is_found_by_its_own_paths() -> None:
    templates = Templates(HANDLERS)
    for _, template in templates.pairs:
        path = "/".join("x1" if part.startswith("{") else part for part in template.split("/"))
        assert templates.of(path) == template
    assert {templates.of(path) for path in ("/", "/v1", "/v1/nix", "/v1/accounts/a/b/c", "", "*")} == {
        "_unmatched"
    }


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (("127.0.0.1", 5), [], 200),
        (("::1", 5), [], 200),
        (("10.0.0.1", 5), [], 404),
        (("somebody", 5), [], 404),
        (None, [], 404),
        (("127.0.0.1", 5), [(b"x-forwarded-for", b"127.0.0.1")], 404),
    ],
)
async def test_metrics_are_for_this_machine_alone(
    client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    # What is not for the caller goes on to the application, which knows no such route.
    sent = await ask(Told(404), path="/metrics", client=client, headers=headers)
    assert sent[0]["status"] == status


async def test_a_request_whose_trace_is_kept_can_be_found_from_its_bucket() -> None:
    kept: list[tracing.Span] = []
    before = tracing.install(tracing.Tracer(kept.append, tracing.Sampling(ratio=1.0)))
    try:
        await watched(Told(200, template="/v1/tenants"))(
            {"type": "http", "method": "GET", "path": "/v1/tenants", "headers": []}, None, _ignored
        )
    finally:
        tracing.install(before)
    text = "".join(pieces(Collector(None, instruments.REGISTRY), openmetrics=True))
    [root] = kept
    found = [line for line in text.splitlines() if f'trace_id="{root.trace.trace_id:032x}"' in line]
    assert len(found) == 1
    assert 'http_route="/v1/tenants"' in found[0]
    assert f'span_id="{root.span_id:016x}"' in found[0]


async def _ignored(message: Json) -> None:
    del message
