"""HTTP manners on every route: HEAD, OPTIONS, entity tags, compression, headers that keep browsers safe."""

import asyncio
import gzip
import itertools
from typing import Any

import httpx
import pytest

from finflow.api.asgi import HANDLERS
from finflow.api.examples import EXAMPLES
from oracles.http import Bank, Json, bank, code, refusal, serving

ROUTES = sorted(
    {(path, method) for handler in HANDLERS for path in handler.paths for method in handler.http_methods}
)
# What everybody may have, and keep for a while.
PUBLIC = {"/docs/{name:str}": "public, max-age=86400", "/.well-known/jwks.json": "public, max-age=60"}
PUBLIC["/.well-known/oauth-authorization-server"] = PUBLIC["/.well-known/jwks.json"]
# Lists and questions that name a ledger in their query.
ASKED = ("/v1/accounts", "/v1/transactions", "/v1/fx/positions", "/v1/settlement/participants")
ASKED += ("/v1/settlement/orders", "/v1/settlement/cycles", "/v1/settlement/nostros")
ASKED += ("/v1/settlement/reconciliation", "/v1/settlement/mirrors")
PAIRS = ("/v1/fx/rate", "/v1/fx/rates")
# The caller is no administrator, and the cycle is open.
REFUSED = {"/v1/clients": 403, "/v1/clients/{client_id:str}": 403}
REFUSED["/v1/settlement/cycles/{cycle_id:str}/report"] = 409
GETS = [path for path, method in ROUTES if method == "GET"]


async def places(one: Bank) -> tuple[dict[str, str], str]:
    """What stands for each path parameter, and the query that lists need."""
    a, b = await one.open(), await one.open()
    transaction = (await one.post(one.transfer(a, b, "1"))).json()["transaction_id"]
    tenant = (await one.client.get("/v1/tenants")).json()["items"][0]["tenant_id"]
    found = {"account_id": a, "transaction_id": transaction, "tenant_id": tenant, "ledger_id": one.ledger_id}
    others = {"name": "swagger-ui.css", "client_id": "cli_00000000000000000000000000", "kid": "some"}
    return found | others | await trades(one) | await payments(one), f"?ledger_id={one.ledger_id}"


async def trades(one: Bank) -> dict[str, str]:
    rates = [each | {"valid_until": "2099-01-01T00:00:00Z"} for each in EXAMPLES["NewRates"]["rates"]]
    rates = [each | {"observed_at": "2026-01-01T00:00:00Z"} for each in rates]
    await one.make("/v1/fx/rates", {"ledger_id": one.ledger_id, "rates": rates})
    quote = await one.make("/v1/fx/quotes", EXAMPLES["NewQuote"] | {"ledger_id": one.ledger_id})
    return {"quote_id": quote["quote_id"]}


async def payments(one: Bank) -> dict[str, str]:
    for name in ("ALFA", "BETA"):
        new = EXAMPLES["ParticipantDraft"] | {"ledger_id": one.ledger_id, "name": name}
        await one.make("/v1/settlement/participants", new | {"overdraft_limit": None})
    order = EXAMPLES["NewOrder"] | {"ledger_id": one.ledger_id}
    taken: Json = (await one.send("/v1/settlement/orders", order)).json()
    return {name: taken[name] for name in ("order_id", "cycle_id")}


def filled(path: str, found: dict[str, str], query: str = "") -> str:
    text = path.replace(":str}", "}").format(**found)
    pair = query and f"{query}&base=EUR&quote=USD"
    return text + (query if path in ASKED else pair if path in PAIRS else "")


async def test_head_is_get_without_its_body(database_url: str) -> None:
    async with bank(database_url) as one:
        found, query = await places(one)
        for path in GETS:
            url = filled(path, found, query)
            get, head = await one.client.get(url), await one.client.head(url)
            assert get.status_code == REFUSED.get(path, 200), path
            assert (head.status_code, head.content) == (get.status_code, b""), path
            assert _steady(head) == _steady(get), path
            assert int(head.headers["content-length"]) > 0
        for url, status in (("/nowhere", 404), ("/v1/accounts/acc_x", 404), ("/v1/transactions:batch", 405)):
            head = await one.client.head(url)
            assert (head.status_code, head.content) == (status, b"")
            assert head.headers["content-type"] == "application/problem+json"


def _steady(answer: httpx.Response) -> dict[str, str]:
    passing = ("x-request-id", "content-length", "ratelimit")
    return {k: v for k, v in answer.headers.items() if k not in passing}


async def test_every_route_lists_its_methods_and_answers_no_others(database_url: str) -> None:
    async with bank(database_url) as one:
        found, _ = await places(one)
        for path, group in itertools.groupby(ROUTES, key=lambda route: route[0]):
            methods = {method for _, method in group} | {"OPTIONS"}
            methods |= {"HEAD"} if "GET" in methods else set()
            url = filled(path, found)
            answer = await one.client.options(url)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert set(answer.headers["allow"].split(", ")) == methods, path
            for method in {"DELETE", "GET", "PATCH", "POST", "PUT", "TRACE", "BREW"} - methods:
                refused = await one.client.request(method, url)
                assert (refused.status_code, code(refused)) == (405, "method_not_allowed"), (method, path)
                assert set(refused.headers["allow"].split(", ")) == methods, path
        nowhere = await one.client.options("/nowhere")
        assert (nowhere.status_code, code(nowhere)) == (404, "route_unknown")


async def test_no_other_origin_is_let_in_and_browsers_are_kept_safe(database_url: str) -> None:
    async with bank(database_url) as one:
        found, query = await places(one)
        origin = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
        for path, method in [*ROUTES, ("/v1/accounts", "OPTIONS"), ("/nowhere", "GET")]:
            answer = await one.client.request(method, filled(path, found, query), headers=origin)
            assert not [name for name in answer.headers if name.startswith("access-control")], path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == PUBLIC.get(path, "no-store"), path


async def test_the_docs_page_needs_nothing_from_elsewhere(database_url: str) -> None:
    async with serving(database_url) as client:
        page = await client.get("/docs")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "<script>" not in page.text
        assert "style=" not in page.text
        for name in ("swagger-ui.css", "swagger-ui-bundle.js", "init.js"):
            assert f'"/docs/{name}"' in page.text
            plain = await client.get(f"/docs/{name}", headers={"Accept-Encoding": "identity"})
            packed = await client.get(f"/docs/{name}", headers={"Accept-Encoding": "gzip"})
            assert "content-encoding" not in plain.headers
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.content == plain.content
        for name in ("LICENSE", "index.html", "..%2Fasgi.py"):
            assert (await client.get(f"/docs/{name}")).status_code == 404


async def _raw(client: httpx.AsyncClient, url: str, accepts: str | None) -> tuple[httpx.Response, bytes]:
    request = client.build_request("GET", url)
    del request.headers["accept-encoding"]
    if accepts is not None:
        request.headers["accept-encoding"] = accepts
    answer = await client.send(request, stream=True)
    return answer, b"".join([part async for part in answer.aiter_raw()])


@pytest.mark.parametrize(
    ("accepts", "packed"),
    [
        (None, False), ("gzip", True), ("GZIP", True), ("br, gzip;q=0.5", True), ("*", True),
        ("gzip;q=0", False), ("gzip;q=0.000", False), ("*, gzip;q=0", False), ("identity", False),
        ("deflate", False), ("x-gzip", True), ("gzipped", False), ("", False),
    ],
)  # fmt: skip
async def test_long_lists_are_packed_for_whoever_asks(
    database_url: str, accepts: str | None, packed: bool
) -> None:
    async with bank(database_url) as one:
        for _ in range(12):
            await one.open()
        url = f"/v1/accounts?ledger_id={one.ledger_id}"
        plain = (await one.client.get(url, headers={"Accept-Encoding": "identity"})).content
        answer, body = await _raw(one.client, url, accepts)
        assert answer.headers["vary"] == "accept-encoding"
        assert ("content-encoding" in answer.headers) == packed
        assert (gzip.decompress(body) if packed else body) == plain
        assert int(answer.headers["content-length"]) == len(body)
        tiny, _ = await _raw(one.client, url + "&limit=1", "gzip")
        assert "content-encoding" not in tiny.headers


async def test_what_is_known_is_not_sent_again(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        made = (await one.post(one.transfer(a, b, "1", pending=True))).json()["transaction_id"]
        urls = (f"/v1/accounts/{a}", f"/v1/accounts/{a}/balance", f"/v1/transactions/{made}")
        tags = []
        for url in urls:
            first = await one.client.get(url)
            tag = first.headers["etag"]
            tags.append(tag)
            assert (await one.client.get(url)).headers["etag"] == tag
            known = (tag, f"W/{tag}", f'"other", {tag}', "*")
            unknown = ('"other"', tag.strip('"'), f'W/"x", {tag[:-2]}"', f"{tag} garbage", "")
            for given in known:
                answer = await one.client.get(url, headers={"If-None-Match": given})
                assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag), given
                assert "content-type" not in answer.headers
                assert (await one.client.head(url, headers={"If-None-Match": given})).status_code == 304
            for given in unknown:
                answer = await one.client.get(url, headers={"If-None-Match": given})
                assert (answer.status_code, answer.content) == (200, first.content), given
        assert (await one.send(f"/v1/transactions/{made}/post", {})).status_code == 201
        for url, tag in zip(urls, tags, strict=True):
            answer = await one.client.get(url, headers={"If-None-Match": tag})
            assert answer.status_code == 200, url
            assert answer.headers["etag"] != tag


async def _patch(
    one: Bank, account: str, match: str | None, key: str | None = None, **body: Any
) -> httpx.Response:
    headers = {
        name: value for name, value in (("If-Match", match), ("Idempotency-Key", key)) if value is not None
    }
    return await one.client.patch(f"/v1/accounts/{account}", json=body, headers=headers)


async def test_an_account_is_changed_knowingly(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        url = f"/v1/accounts/{a}"
        assert refusal(await _patch(one, a, None, metadata={})) == (428, "precondition_required", "If-Match")
        first = (await one.client.get(url)).headers["etag"]
        # Money that moves is no change of the account's settings.
        await one.post(one.transfer(a, b, "1"))
        assert (await one.client.get(url)).headers["etag"] != first
        changed = await _patch(one, a, first, metadata={"a": "1"})
        assert changed.status_code == 200
        assert changed.headers["etag"] == (await one.client.get(url)).headers["etag"] != first
        failed = (412, "precondition_failed", "If-Match")
        tag = changed.headers["etag"]
        for stale in (first, f"W/{tag}", '"x"', '""', f"{first}, W/{tag}"):
            assert refusal(await _patch(one, a, stale, metadata={"a": "2"})) == failed, stale
        for malformed in ("x", tag.strip('"'), f"{tag};"):
            assert refusal(await _patch(one, a, malformed, metadata={})) == (
                400,
                "request_malformed",
                "If-Match",
            )
        assert (await _patch(one, a, f"{first}, {tag}", metadata={"a": "3"})).status_code == 200
        assert (await _patch(one, a, "*", metadata=None)).json()["metadata"] is None
        assert refusal(await _patch(one, "acc_x", "*", metadata={}))[1] == "resource_unknown"


async def test_of_two_who_know_the_same_only_one_changes(database_url: str) -> None:
    async with bank(database_url) as one:
        a = await one.open()
        tag = (await one.client.get(f"/v1/accounts/{a}")).headers["etag"]
        answers = await asyncio.gather(*(_patch(one, a, tag, metadata={"by": str(n)}) for n in range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


async def test_a_change_is_repeated_under_its_key(database_url: str) -> None:
    async with bank(database_url) as one:
        a = await one.open()
        tag = (await one.client.get(f"/v1/accounts/{a}")).headers["etag"]
        first = await _patch(one, a, tag, "k", metadata={"a": "1"})
        again = await _patch(one, a, tag, "k", metadata={"a": "1"})
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotency-replayed"] == "true"
        other = await _patch(one, a, first.headers["etag"], "k", metadata={"a": "1"})
        assert refusal(other) == (422, "idempotency_conflict", None)


@pytest.mark.parametrize(
    ("verbs", "status"),
    [(["freeze"], "frozen"), (["freeze", "freeze"], "frozen"), (["freeze", "unfreeze"], "open")],
)
async def test_accounts_are_frozen_and_unfrozen(database_url: str, verbs: list[str], status: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        for verb in verbs:
            answer = await one.client.post(f"/v1/accounts/{a}/{verb}", json={})
            assert answer.status_code == 200
        assert answer.json()["status"] == status
        assert answer.headers["etag"] == (await one.client.get(f"/v1/accounts/{a}")).headers["etag"]
        assert ((await one.post(one.transfer(a, b, "1"))).status_code == 201) == (status == "open")


async def test_a_closed_account_stays_closed(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        await one.post(one.transfer(a, b, "1"))
        url = f"/v1/accounts/{a}"
        assert refusal(await one.client.post(f"{url}/close")) == (422, "account_not_empty", "status")
        await one.post(one.transfer(b, a, "1"))
        stale = {"If-Match": '"x-1"'}
        assert refusal(await one.client.post(f"{url}/close", headers=stale))[1] == "precondition_failed"
        assert (await one.client.post(f"{url}/close")).json()["status"] == "closed"
        for verb in ("freeze", "unfreeze", "close"):
            assert refusal(await one.client.post(f"{url}/{verb}")) == (422, "account_closed", "account_id")
        body: Json = {"why": "?"}
        assert refusal(await one.client.post(f"{url}/freeze", json=body)) == (400, "request_malformed", "why")


async def test_a_hold_expires_when_its_time_is_over_and_not_before(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        long = (await one.post(one.transfer(a, b, "1", pending=True, timeout_s=600))).json()["transaction_id"]
        endless = (await one.post(one.transfer(a, b, "1", pending=True))).json()["transaction_id"]
        for hold in (long, endless):
            answer = await one.send(f"/v1/transactions/{hold}/expire", {})
            assert refusal(answer) == (422, "not_expired", "transaction_id")
        missing = await one.client.post(f"/v1/transactions/{long}/expire")
        assert refusal(missing) == (400, "idempotency_key_missing", "Idempotency-Key")
        short = (await one.post(one.transfer(a, b, "1", pending=True, timeout_s=1))).json()["transaction_id"]
        answer = await one.send(f"/v1/transactions/{short}/expire", {})
        while answer.status_code == 422 and code(answer) == "not_expired":
            await asyncio.sleep(0.05)
            answer = await one.send(f"/v1/transactions/{short}/expire", {})
        # The sweeper may come first: either way it is expired, and once.
        assert answer.status_code == 201 or code(answer) == "already_expired"
        read = (await one.client.get(f"/v1/transactions/{short}")).json()
        assert read["status"] == "expired"
        assert code(await one.send(f"/v1/transactions/{short}/expire", {})) == "already_expired"
