"""Limits over HTTP: what every answer says about them, what is refused, and who may change them."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from finflow.client.retries import failure_of
from oracles.http import Bank, Json, bank, bearer, code, refusal
from oracles.tokens import operator_token, tenant_token

# sf-list of sf-strings with integer or string parameters (RFC 9651), as the RateLimit draft uses it.
ITEM = re.compile(r'"(?P<name>[a-z]+)"(?P<parameters>(?:;[a-z]+=(?:\d+|"[a-z-]+"))*)')


def parsed(text: str) -> dict[str, dict[str, int | str]]:
    """A RateLimit or RateLimit-Policy header, every character of it accounted for."""
    found: dict[str, dict[str, int | str]] = {}
    for part in text.split(", "):
        item = ITEM.fullmatch(part)
        assert item, text
        pairs = [pair.split("=") for pair in item["parameters"].split(";")[1:]]
        found[item["name"]] = {name: int(v) if v.isdigit() else v.strip('"') for name, v in pairs}
    return found


def left(answer: httpx.Response) -> int:
    return int(parsed(answer.headers["ratelimit"])["requests"]["r"])


async def limit(
    one: Bank, tenant_id: str | None = None, match: str | None = "*", **fields: Any
) -> httpx.Response:
    headers = bearer(operator_token()) | ({} if match is None else {"If-Match": match})
    url = f"/v1/tenants/{tenant_id or one.tenant_id}/limits"
    return await one.client.patch(url, json=fields, headers=headers)


async def test_every_answer_says_what_is_left(database_url: str) -> None:
    async with bank(database_url) as one:
        # So slow that nothing comes back while the test runs.
        assert (await limit(one, requests_per_s=1, burst=1000, concurrency=7)).status_code == 200
        account = await one.open()
        began_s = time.monotonic()
        answers = [
            await one.client.get(f"/v1/accounts/{account}"),
            await one.client.get("/v1/accounts/acc_x"),
            await one.client.get("/v1/nowhere"),
            await one.client.post("/v1/transactions", content=b"{"),
            await one.client.delete("/v1/transactions"),
            await one.client.head(f"/v1/accounts/{account}"),
            await one.client.options("/v1/transactions"),
            await one.client.get("/healthz"),
        ]
        assert [answer.status_code for answer in answers] == [200, 404, 404, 400, 405, 200, 204, 200]
        for answer in answers:
            policy = parsed(answer.headers["ratelimit-policy"])
            assert policy == {
                "requests": {"q": 1000, "w": 1000},
                "concurrency": {"q": 7, "qu": "concurrent-requests"},
            }
        numbers = [left(answer) for answer in answers]
        # One each, and one a second back.
        assert 7 - math.ceil(time.monotonic() - began_s) <= numbers[0] - numbers[-1] <= 7
        assert {parsed(answer.headers["ratelimit"])["concurrency"]["r"] for answer in answers} == {6}


async def test_too_many_requests_are_refused_before_anything_else(database_url: str) -> None:
    async with bank(database_url) as one:
        assert (await limit(one, requests_per_s=1, burst=5)).status_code == 200
        touched = False

        async def body() -> AsyncIterator[bytes]:
            nonlocal touched
            touched = True
            yield b"{}"

        answers = [await one.client.get("/v1/ledgers") for _ in range(8)]
        assert {answer.status_code for answer in answers} <= {200, 429}
        refused = [
            await one.client.get("/v1/ledgers"),
            await one.client.get("/v1/nowhere"),
            await one.client.post("/v1/transactions", content=body()),
        ]
        # The bucket gives one a second: what came between the others may have been let in.
        refused = [answer for answer in refused if answer.status_code == 429]
        assert len(refused) >= 2
        for answer in refused:
            assert (code(answer), answer.json()["retryable"]) == ("rate_limited", True)
            assert answer.headers["retry-after"] == "1"
            assert parsed(answer.headers["ratelimit"])["requests"]["r"] == 0
            assert parsed(answer.headers["ratelimit-policy"])["requests"] == {"q": 5, "w": 5}
        if refused[-1].request.method == "POST":
            assert not touched, "a body is not read for nothing"
        # Others are not concerned, nor is who says nothing about himself.
        operator = {"Authorization": f"Bearer {operator_token()}"}
        assert (await one.client.get("/v1/tenants", headers=operator)).status_code == 200
        del one.client.headers["authorization"]
        assert (await one.client.get("/healthz")).status_code == 200
        stranger = await one.client.get("/v1/ledgers")
        assert (stranger.status_code, "ratelimit" in stranger.headers) == (401, False)


async def test_a_refusal_moves_no_money_and_its_key_stays_free(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        await limit(one, requests_per_s=1, burst=2)
        answers = {n: await one.post(one.transfer(a, b, "1"), f"k{n}") for n in range(4)}
        refused = [n for n, answer in answers.items() if answer.status_code == 429]
        assert refused
        await limit(one, requests_per_s=None, burst=None)
        again = [await one.post(one.transfer(a, b, "1"), f"k{n}") for n in range(4)]
        assert [answer.status_code for answer in again] == [201] * 4
        replayed = [n for n, answer in enumerate(again) if "idempotency-replayed" in answer.headers]
        assert replayed == [n for n in answers if n not in refused]
        assert await one.balance(b) == "4.00"


async def test_only_so_many_are_under_way_at_a_time(database_url: str) -> None:
    async with bank(database_url) as one:
        a, b = await one.open(), await one.open()
        await limit(one, concurrency=3)
        answers = await asyncio.gather(*(one.post(one.transfer(a, b, "1"), f"k{n}") for n in range(10)))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(201) >= 3
        for answer in answers:
            if answer.status_code == 429:
                assert code(answer) == "concurrency_limited"
                assert answer.headers["retry-after"] == "1"
        assert statuses.count(201) + statuses.count(429) == 10
        assert 429 in statuses
        # Whatever became of them, all have left: the whole width is free again.
        one_by_one = [await one.post(one.transfer(a, b, "1"), f"k{n}") for n in range(10)]
        assert {answer.status_code for answer in one_by_one} == {201}
        read = await one.client.get("/v1/ledgers")
        assert parsed(read.headers["ratelimit"])["concurrency"]["r"] == 2


async def test_whoever_breaks_off_has_left(database_url: str) -> None:
    async with bank(database_url) as one:
        await limit(one, concurrency=2)
        for _ in range(6):

            async def broken() -> AsyncIterator[bytes]:
                yield b"{"
                await asyncio.Event().wait()

            task = asyncio.create_task(one.client.post("/v1/accounts", content=broken()))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        read = await one.client.get("/v1/ledgers")
        assert parsed(read.headers["ratelimit"])["concurrency"]["r"] == 1


async def test_a_tenant_reads_its_limits_and_the_operator_changes_them(database_url: str) -> None:
    async with bank(database_url) as one:
        url = f"/v1/tenants/{one.tenant_id}/limits"
        first = await one.client.get(url)
        default = {"requests_per_s": 300, "burst": 1000, "concurrency": 256}
        assert first.json() == {"tenant_id": one.tenant_id, **default, "overridden": [], "version": 0}
        assert (
            await one.client.get(url, headers={"If-None-Match": first.headers["etag"]})
        ).status_code == 304
        changed = await limit(one, match=first.headers["etag"], requests_per_s=20)
        assert (changed.status_code, changed.json()["overridden"]) == (200, ["requests_per_s"])
        read = await one.client.get(url)
        assert (read.content, read.headers["etag"]) == (changed.content, changed.headers["etag"])
        assert read.headers["etag"] != first.headers["etag"]
        stale = await limit(one, match=first.headers["etag"], burst=3)
        assert refusal(stale) == (412, "precondition_failed", "If-Match")
        assert refusal(await limit(one, match=None, burst=3)) == (428, "precondition_required", "If-Match")
        back = await limit(one, match=read.headers["etag"], requests_per_s=None)
        assert back.json() == first.json() | {"version": 2}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"requests_per_s": 0}, "requests_per_s"),
        ({"requests_per_s": 1_000_001}, "requests_per_s"),
        ({"burst": -1}, "burst"),
        ({"burst": "9"}, "burst"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"per_s": 1}, "per_s"),
    ],
)
async def test_limits_have_bounds(database_url: str, fields: Json, param: str) -> None:
    async with bank(database_url) as one:
        assert refusal(await limit(one, **fields)) == (400, "request_malformed", param)


async def test_limits_are_nobody_elses(database_url: str) -> None:
    async with bank(database_url) as one:
        url = f"/v1/tenants/{one.tenant_id}/limits"
        other = await one.make("/v1/tenants", {"name": "Other"}, bearer(operator_token()))
        foreign = bearer(tenant_token(other["tenant_id"]))
        unknown = "ten_01kdv3n00000080000000000g2"
        answers = [
            await one.client.get(url, headers=foreign),
            await one.client.get(f"/v1/tenants/{unknown}/limits", headers=foreign),
        ]
        assert {refusal(answer)[:2] for answer in answers} == {(404, "tenant_unknown")}
        own_admin = bearer(tenant_token(one.tenant_id, "admin", "ledgers:read"))
        body = {"burst": 10_000}
        refused = await one.client.patch(url, json=body, headers=own_admin | {"If-Match": "*"})
        assert (refused.status_code, code(refused)) == (403, "operator_required")
        assert refusal(await limit(one, unknown, burst=1))[:2] == (404, "tenant_unknown")
        assert (await one.client.get(url)).json()["burst"] == 1000


async def test_our_client_waits_as_long_as_it_is_told(database_url: str) -> None:
    async with bank(database_url) as one:
        await limit(one, requests_per_s=1, burst=1)
        answers = [await one.client.get("/v1/ledgers") for _ in range(3)]
        [refused, *_] = [answer for answer in answers if answer.status_code == 429]
        failure = failure_of(refused.status_code, refused.content, refused.headers["retry-after"])
        assert (failure.error.kind.code, failure.again, failure.wait_s) == ("rate_limited", True, 1.0)
        assert not failure.in_doubt
