"""What is wrong with a request, said as RFC 9457 problem details, whatever it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from finflow.api.asgi import build
from finflow.api.decoding import DRAIN_LIMIT
from finflow.kernel.errors import FinFlowError
from finflow.limits.service import Entry
from oracles.http import bank, client_of, code, lifespan, line, refusal, serving
from oracles.tokens import verifier

JSON = {"Content-Type": "application/json", "Idempotency-Key": "k"}
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("method", "path", "status", "expected", "allow"),
    [
        ("GET", "/", 404, "route_unknown", None),
        ("GET", "/v1/transactions/a/b/c", 404, "route_unknown", None),
        ("POST", "/v1/transactions:bulk", 404, "route_unknown", None),
        ("DELETE", "/v1/accounts", 405, "method_not_allowed", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/healthz", 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/accounts/acc_x", 405, "method_not_allowed", "GET, HEAD, OPTIONS, PATCH"),
        ("GET", "/v1/transactions:batch", 405, "method_not_allowed", "OPTIONS, POST"),
    ],
)
async def test_routes_and_methods(
    database_url: str, method: str, path: str, status: int, expected: str, allow: str | None
) -> None:
    async with serving(database_url) as client:
        answer = await client.request(method, path)
        assert (answer.status_code, code(answer)) == (status, expected)
        assert answer.headers.get("allow") == allow


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"{", None),
        (b'{"ledger_id":"l","entries":[]} {}', None),
        (b"null", None),
        (b"\xff", None),
        (b'{"ledger_id":"\xff"}', None),
        (b'{"ledger_id":"\\ud800"}', None),
        (b"[" * 200_000, None),
        (b'{"metadata":' * 50_000, "metadata[...]"),
        (b'{"ledger_id":"l","entries":[],"x":' + b"[" * 200_000, "x"),
        (b'{"entries":[]}', "ledger_id"),
        (b'{"ledger_id":"l"}', "entries"),
        (b'{"ledger_id":"l","entries":{}}', "entries"),
        (b'{"ledger_id":1,"entries":[]}', "ledger_id"),
        (b'{"ledger_id":"l","entries":[{"account_id":"a"}]}', "entries[0].direction"),
        (b'{"ledger_id":"l","entries":[],"effectiv_at":"x"}', "effectiv_at"),
        (b'{"ledger_id":"l","entries":[],"type":"post"}', "type"),
        (b'{"ledger_id":"l","entries":[],"effective_at":"2026-01-01"}', "effective_at"),
        (b'{"ledger_id":"l","entries":[],"effective_at":"2026-01-01T00:00:00"}', "effective_at"),
        (b'{"ledger_id":"l","entries":[],"effective_at":"0001-01-01T00:00:00+14:00"}', "effective_at"),
        (b'{"ledger_id":"l","entries":[],"effective_at":"9999-12-31T23:59:59-14:00"}', "effective_at"),
        (b'{"ledger_id":"l","entries":[],"pending":"true"}', "pending"),
        (b'{"ledger_id":"l","entries":[],"pending":true,"timeout_s":0}', "timeout_s"),
        (b'{"ledger_id":"l","entries":[],"pending":true,"timeout_s":' + b"9" * 5000 + b"}", "timeout_s"),
        (b'{"ledger_id":"l","entries":[],"timeout_s":5}', "timeout_s"),
        (b'{"ledger_id":"l","entries":[],"description":"a\\u0000b"}', "description"),
        (b'{"ledger_id":"l","entries":[],"metadata":{"a":"\\u0000"}}', "metadata.a"),
        (b'{"ledger_id":"l","entries":[],"metadata":{"a\\u0000":"b"}}', "metadata"),
    ],
)
async def test_bodies_that_are_none(database_url: str, content: bytes, param: str | None) -> None:
    async with bank(database_url) as one:
        answer = await one.client.post("/v1/transactions", content=content, headers=JSON)
        assert refusal(answer) == (400, "request_malformed", param)


@pytest.mark.parametrize("number", ["12.5", "12", "1e400", "-0.0", "9" * 400])
async def test_an_amount_is_never_a_number(database_url: str, number: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        lines = [line(a, "debit", "12.5"), line(b, "credit", "@")]
        content = one.transfer(a, b, "1") | {"entries": lines}
        text = httpx.Request("POST", "http://test", json=content).content.replace(b'"@"', number.encode())
        answer = await one.client.post("/v1/transactions", content=text, headers=JSON)
        assert refusal(answer) == (400, "request_malformed", "entries[1].amount")
        assert "decimal string" in answer.json()["detail"] or "out of range" in answer.json()["detail"]


async def test_an_escaped_backslash_is_not_a_nul(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        answer = await one.post(one.transfer(a, b, "1", description="\\u0000"))
        assert (answer.status_code, answer.json()["description"]) == (201, "\\u0000")


async def test_a_query_holds_no_nul(database_url: str) -> None:
    async with bank(database_url) as one:
        query = f"/v1/accounts?ledger_id={one.ledger_id}&external_reference=%00"
        assert refusal(await one.client.get(query)) == (400, "request_malformed", "external_reference")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
async def test_media_types(database_url: str, media_type: str) -> None:
    async with bank(database_url) as one:
        client = one.client
        for path in ("/v1/transactions", "/v1/transactions:batch", "/v1/accounts"):
            headers = JSON | {"Content-Type": media_type}
            answer = await client.post(path, content=b"{}", headers=headers)
            assert refusal(answer) == (415, "media_type_unsupported", None)
        headers = JSON | {"Content-Type": "Application/JSON; charset=utf-8"}
        answer = await client.post("/v1/ledgers", content=b'{"name":"L"}', headers=headers)
        assert answer.status_code == 201
        headers = JSON | {"Content-Type": "application/x-ndjson"}
        lines = await client.post("/v1/transactions", content=b"{}", headers=headers)
        assert code(lines) == "media_type_unsupported"


async def test_bodies_are_bounded_by_their_length_and_while_they_come(database_url: str) -> None:
    sent = 0

    async def stream(parts: int, part: bytes) -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(parts):
            sent += len(part)
            yield part

    async with bank(database_url) as one:
        client = one.client
        for path, limit in (("/v1/transactions", MIB), ("/v1/transactions:batch", 32 * MIB)):
            whole = await client.post(path, content=b" " * limit, headers=JSON)
            assert refusal(whole) == (400, "request_malformed", None)
            over = await client.post(path, content=b" " * (limit + 1), headers=JSON)
            assert refusal(over) == (413, "request_too_large", None)
            sent = 0
            answer = await client.post(path, content=stream(1000, b" " * MIB), headers=JSON)
            assert refusal(answer) == (413, "request_too_large", None)
            assert limit < sent <= limit + DRAIN_LIMIT + 2 * MIB


async def test_request_ids(database_url: str) -> None:
    async with serving(database_url) as client:
        for given in ("abc-123", "x" * 128, "/&=~"):
            answer = await client.get("/nowhere", headers={"X-Request-Id": given})
            assert answer.headers["x-request-id"] == answer.json()["request_id"] == given
        made = set()
        for insane in ("", "x" * 129, "a b", "ä", 'a"\\\t'):
            answer = await client.get("/healthz", headers={"X-Request-Id": insane.encode("latin-1")})
            made.add(answer.headers["x-request-id"])
        assert len(made) == 5
        assert all(request_id.startswith("req_") for request_id in made)


async def test_a_request_that_takes_too_long_is_given_up_but_not_its_transaction(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        async with serving(database_url, deadline_s=0.3) as client:
            hasty = one.elsewhere(client)
            blocker = await asyncpg.connect(database_url)
            async with blocker.transaction():
                await blocker.execute("select from heads for update")
                body = one.transfer(a, b, "1")
                answer = await hasty.post(body, "k")
                assert (answer.status_code, code(answer)) == (504, "deadline_exceeded")
                assert answer.json()["retryable"] is True
            await blocker.close()
            for _ in range(100):
                again = await hasty.post(body, "k")
                if again.status_code == 201:
                    break
                assert again.status_code in (409, 504)
                await asyncio.sleep(0.05)
            assert again.status_code == 201
            assert await hasty.balance(b) == "1.00"


async def test_a_body_that_never_ends_is_given_up(database_url: str) -> None:
    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"name":'
        await asyncio.Event().wait()

    async with serving(database_url, deadline_s=0.2) as client:
        answer = await client.post("/v1/tenants", content=trickle(), headers=JSON)
        assert refusal(answer) == (504, "deadline_exceeded", None)


class Broken:
    """Services whose database is gone, or whose ledger has a bug; who asks, they know."""

    def __init__(self, error: Exception) -> None:
        self.ledger: Any = self
        self.limits: Any = self
        self.settlement: Any = self
        self.verifier = verifier()
        self._error = error

    def enter(self, tenant_id: str | None) -> Entry:
        return Entry(None, 0, ())

    def start(self, tenant_id: str | None) -> bool:
        return True

    def leave(self, tenant_id: str | None) -> None:
        pass

    async def watch(self) -> None:
        await asyncio.Event().wait()

    async def reachable(self, within_s: float) -> bool:
        return False

    async def ledger_page(self, span: Any) -> list[Any]:
        raise self._error

    async def sweep(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def broken(error: Exception) -> AsyncIterator[httpx.AsyncClient]:
    @asynccontextmanager
    async def services() -> AsyncIterator[Any]:
        yield Broken(error)

    app = build(services)
    async with lifespan(app), client_of(app) as client:
        yield client


@pytest.mark.parametrize(
    ("named", "status", "retryable", "retry_after"),
    [
        ("overloaded", 503, True, "1"),
        ("database_unreachable", 503, True, "1"),
        ("outcome_unknown", 503, True, "1"),
        ("idempotency_in_progress", 409, True, "1"),
        ("database_full", 507, True, None),
        ("external_reference_taken", 409, False, None),
    ],
)
async def test_what_passes_by_itself_says_when(
    named: str, status: int, retryable: bool, retry_after: str | None
) -> None:
    async with broken(FinFlowError(named, "exactly this", "here")) as client:
        answer = await client.get("/v1/ledgers")
        assert refusal(answer) == (status, named, "here")
        assert (answer.json()["detail"], answer.json()["retryable"]) == ("exactly this", retryable)
        assert answer.headers.get("retry-after") == retry_after


async def test_work_beside_that_fails_while_it_is_stopped_holds_nothing_up() -> None:
    # The worker of settlement fails at its first step, in the very turn in which the server stops.
    async with asyncio.timeout(10), broken(RuntimeError()):
        pass


async def test_a_bug_is_a_problem_that_tells_nothing() -> None:
    async with broken(RuntimeError("password=secret")) as client:
        answer = await client.get("/v1/ledgers")
        assert refusal(answer) == (500, "internal", None)
        assert "secret" not in answer.text


async def test_health_and_readiness(database_url: str) -> None:
    async with serving(database_url) as client:
        health = (await client.get("/healthz")).json()
        assert (health["status"], set(health)) == ("ok", {"status", "pid", "release"})
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "database": "reachable"})
    async with broken(RuntimeError()) as client:
        assert (await client.get("/healthz")).status_code == 200
        unready = await client.get("/readyz")
        assert (unready.status_code, unready.headers["retry-after"]) == (503, "1")
        assert unready.json() == {"status": "unready", "database": "unreachable"}


async def test_the_openapi_document_describes_every_route(database_url: str) -> None:
    async with serving(database_url) as client:
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
        assert len(document["paths"]) >= 25
        for path, item in document["paths"].items():
            for method, operation in item.items():
                places = {(p["name"], p["in"]) for p in operation["parameters"]}
                wanted = {(part[1:-1], "path") for part in path.split("/") if part.startswith("{")}
                assert wanted <= places, path
                assert ("requestBody" in operation) == (method in ("post", "patch")), path
                assert _lacking_examples(operation) == []
        post = document["paths"]["/v1/transactions"]["post"]
        key = next(p for p in post["parameters"] if p["name"] == "Idempotency-Key")
        assert key["required"] is True
        assert "201" in post["responses"]
        new = document["components"]["schemas"]["NewTransaction"]
        assert set(new["required"]) == {"ledger_id", "entries"}
        assert new["additionalProperties"] is False
        named = {reference.removeprefix("#/components/schemas/") for reference in _references(document)}
        assert named <= set(document["components"]["schemas"])
        for page in ("/schema", "/schema/swagger", "/openapi-pages", "/docs/index.html"):
            assert (await client.get(page)).status_code == 404


def _lacking_examples(operation: dict[str, Any]) -> list[Any]:
    """Bodies and path parameters without an example, and examples of problems that are not their status's."""
    contents = list(operation.get("requestBody", {}).get("content", {}).values())
    lacking: list[Any] = [p for p in operation["parameters"] if p["in"] == "path" and "example" not in p]
    for status, response in operation["responses"].items():
        for media_type, content in response.get("content", {}).items():
            contents.append(content)
            if media_type == "application/problem+json":
                wrong = [x for x in content["examples"].values() if str(x["value"]["status"]) != status]
                lacking += wrong
    return lacking + [c for c in contents if "example" not in c and not c.get("examples")]


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in _references(item)]
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for item in node.values() for found in _references(item)]
    return []
