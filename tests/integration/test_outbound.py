"""Calls of others over HTTP, whoever makes them: a span with what the conventions name, and its header."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from joserfc.jwk import OKPKey

import finflow
from finflow.cli import top
from finflow.client.tokens import ClientCredentials
from finflow.identity.issuers import Described, issuer_of
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import SlackSpec, WebhookSpec
from finflow.rollout.gates_spec import PrometheusMetrics, ScrapeMetrics, SideQueries
from finflow.rollout.ingress_spec import GatewaySpec
from finflow.rollout.notices.web import Slack, Webhook
from finflow.rollout.ports import Notice
from finflow.rollout.sources.opening import open_source
from finflow.rollout.verdicts import Side
from finflow.shadow.reads import Read, compare_reads
from finflow.stack.ingress.gateway import GatewayIngress
from finflow.telemetry import outbound, tracing
from finflow.telemetry.sampling import Sampling
from finflow.telemetry.tracing import Parent, Span, Tracer
from finflow.verification import loading
from finflow.verification.service import Run, verify

NOTICE = Notice("rol_1", "payments", "aborted", "Took it back.", "2026-03-01T10:00:00Z", {})
HIDDEN = "T0/B0/xoxsecret"


class Server:
    """Answers whatever it is asked with an empty object, and keeps what `traceparent` said of the caller."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, str | None]] = []
        self.states: list[str | None] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path, request.headers.get("traceparent")))
        self.states.append(request.headers.get("tracestate"))
        if request.path == "/moved":
            raise web.HTTPFound("/there")
        if request.path == "/hangs":
            await asyncio.sleep(30)
        if request.path == "/breaks" and request.transport is not None:
            request.transport.close()
        return web.json_response({}, status=int(request.query.get("status", "200")))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def kept() -> Iterator[list[Span]]:
    """Every trace that ends."""
    roots: list[Span] = []
    before = tracing.install(Tracer(roots.append, Sampling(ratio=1.0, head_per_s=1e6)))
    yield roots
    tracing.install(before)


@asynccontextmanager
async def asked(url: str, method: str = "GET", **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    async with outbound.session() as session, session.request(method, url, **options) as answer:
        yield answer


async def test_a_call_is_a_span_by_the_conventions_and_names_itself_to_whom_it_asks(
    kept: list[Span], server: Server
) -> None:
    url = server.url.replace("//", "//user:password@") + "/a%20b?token=secret#part"
    cause = Parent(7, 8, True, "vendor=1")
    root = tracing.tracer().begin("r", parent=cause)
    token = tracing.enter(root)
    async with asked(url, "POST", data=b"{}", headers={"X-Else": "1"}) as answer:
        assert answer.status == 200
        assert tracing.current() is root
    tracing.leave(token)
    tracing.tracer().finish(root)
    [call] = root.spans
    assert (call.name, call.kind, call.parent, call.error) == ("POST", "client", root, None)
    assert call.attributes == {
        "http.request.method": "POST",
        "url.full": f"{server.url}/a%20b",
        "server.address": "127.0.0.1",
        "server.port": int(server.url.rpartition(":")[2]),
        "http.response.status_code": 200,
    }
    assert server.asked == [("POST", "/a b", call.traceparent)]
    assert server.states == ["vendor=1"]


async def test_a_call_that_nobody_began_a_trace_for_is_one_of_its_own(
    kept: list[Span], server: Server
) -> None:
    async with asked(server.url):
        pass
    [root] = kept
    assert (root.name, root.kind) == ("GET", "client")
    assert server.asked == [("GET", "/", root.traceparent)]


async def test_each_hop_of_a_redirect_is_a_span(kept: list[Span], server: Server) -> None:
    async with asked(f"{server.url}/moved"):
        pass
    assert [root.attributes["http.response.status_code"] for root in kept] == [302, 200]
    assert [(path, parent) for _, path, parent in server.asked] == [
        (path, root.traceparent) for path, root in zip(("/moved", "/there"), kept, strict=True)
    ]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/?status=404", "404"),
        ("/?status=503", "503"),
        ("/breaks", "ServerDisconnectedError"),
        ("/hangs", "TimeoutError"),
    ],
)
async def test_a_call_that_fails_says_how(kept: list[Span], server: Server, path: str, error: str) -> None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asked(server.url + path, "POST", timeout=aiohttp.ClientTimeout(total=0.2)):
            pass
    [root] = kept
    assert root.error == error
    assert root.attributes.get("http.response.status_code", 0) == (int(error) if error.isdigit() else 0)


async def test_without_a_receiver_a_call_is_as_ever(server: Server) -> None:
    async with asked(server.url) as answer:
        assert await answer.json() == {}
    assert server.asked == [("GET", "/", None)]


async def fetch_keys(url: str) -> None:
    trust = Described(name="x", issuer="i", audience="a", jwks_uri=url, algorithms=["RS256"], tenant="t")
    await issuer_of(trust).find("kid", 0.0)


async def get_a_token(url: str) -> None:
    await ClientCredentials(url, "cli_1", OKPKey.generate_key("Ed25519").as_pem(private=True))()


async def read_prometheus(url: str) -> None:
    queries = SideQueries("up", "up")
    releases = {side: str(side) for side in Side}
    await open_source(PrometheusMetrics(queries, queries, url=url), releases=releases).read()


async def scrape_pages(url: str) -> None:
    releases = {side: str(side) for side in Side}
    spec = ScrapeMetrics(baseline_urls=(url,), candidate_urls=(url,))
    await open_source(spec, releases=releases).read()


async def check(url: str) -> None:
    # JSON is YAML.
    spec = {"name": "s", "checks": [{"id": "c", "kind": "http", "path": "/${env.KEY}"}]}
    await verify(Run(spec=loading.parse(json.dumps(spec)), url=url, environ={"KEY": HIDDEN}))


CALLERS: dict[str, Callable[[str], Awaitable[Any]]] = {
    "issuers": fetch_keys,
    "tokens": get_a_token,
    "webhook": lambda url: Webhook(WebhookSpec(url_variable="W"), f"{url}/{HIDDEN}").notify(NOTICE),
    "slack": lambda url: Slack(SlackSpec(url_variable="S"), f"{url}/{HIDDEN}").notify(NOTICE),
    "prometheus": read_prometheus,
    "scrape": scrape_pages,
    "gateway": lambda url: GatewayIngress(
        GatewaySpec(api_url=url, route="r", baseline_service="b", candidate_service="c", token_file=None)
    ).weight(),
    "verification": check,
    "top": top.scrape,
    "shadow": lambda url: compare_reads(url, url, url, [Read("/v1/x")]),
}


@pytest.mark.parametrize("caller", sorted(CALLERS))
async def test_whoever_calls_others_is_seen_and_tells_no_secret(
    kept: list[Span], server: Server, caller: str
) -> None:
    # An empty object is no answer to most of them.
    with contextlib.suppress(FinFlowError):
        await CALLERS[caller](server.url)
    spans = {span.traceparent: span for root in kept for span in (root, *root.trace.spans)}
    assert server.asked
    for method, _, parent in server.asked:
        call = spans.pop(str(parent))
        assert (call.name, call.kind, call.attributes["http.response.status_code"]) == (method, "client", 200)
        assert HIDDEN not in repr(call.attributes)
        assert str(call.attributes["url.full"]).startswith(server.url)


def test_nobody_calls_others_past_the_spans() -> None:
    source = Path(finflow.__file__).parent
    found = {
        str(path.relative_to(source)) for path in source.rglob("*.py") if "ClientSession(" in path.read_text()
    }
    # The client's own spans begin before it has a token, and end with the answer's last byte.
    assert found == {"telemetry/outbound.py", "client/transport.py"}
