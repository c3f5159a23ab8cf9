"""Whoever has no token or a forged one, over real sockets: little work is done for them, and nobody waits."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from oracles.http import Bank, bearer, code
from oracles.tokens import operator_token, tenant_token
from oracles.workers import worker

MIB = 1024 * 1024
POST = (
    b"POST /v1/transactions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
)


@pytest.mark.parametrize("token", ["", "forged"])
async def test_bodies_of_strangers_are_not_waited_for(database_url: str, token: str) -> None:
    async with worker(database_url) as (_, client):
        head = POST + (f"Authorization: Bearer {token}\r\n".encode() if token else b"")
        host, port = client.base_url.host, client.base_url.port
        lines = [await asyncio.open_connection(host, port) for _ in range(100)]
        for _, writer in lines:
            writer.write(head + b"Content-Length: 1000000\r\n\r\n{")
            await writer.drain()
        answers = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in lines))
        assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 401 Unauthorized"}
        assert (await client.get("/v1/tenants", timeout=5)).status_code == 200
        for _, writer in lines:
            writer.close()


@pytest.mark.parametrize(
    "content",
    [b" " * (2 * MIB), b"[" * (MIB - 1), b"\xff\x00", b"{" * 100],
    ids=["long", "deep", "no text", "half"],
)
async def test_what_strangers_send_is_not_looked_at(database_url: str, content: bytes) -> None:
    async with worker(database_url) as (_, client):
        headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
        async with httpx.AsyncClient(base_url=client.base_url, timeout=10) as stranger:
            for path in ("/v1/transactions", "/v1/transactions:batch", "/v1/accounts", "/v1/tenants"):
                # The server may hang up on a body that it does not want.
                try:
                    answer = await stranger.post(path, content=content, headers=headers)
                except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                    continue
                assert (answer.status_code, code(answer)) == (401, "token_missing")
        assert (await client.get("/v1/tenants")).status_code == 200


async def test_the_token_endpoint_bounds_what_it_reads(database_url: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"a=1&" * 16_384

    async with worker(database_url) as (_, client):
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for content in (b"grant_type=" + b"x" * MIB, endless(), b"&".join([b"a=1"] * 4_000)):
            answer = await client.post("/oauth/token", content=content, headers=form)
            assert answer.status_code in (400, 413), answer.text
        assert (await client.get("/v1/tenants")).status_code == 200


async def test_forged_tokens_are_looked_at_so_often_and_no_more(database_url: str) -> None:
    async with worker(database_url, unverified_per_s=5) as (_, client):
        one = await Bank(client).found()
        good = tenant_token(one.tenant_id)
        stem = operator_token()[:-12]
        known, fresh = bearer(good), bearer(tenant_token(one.tenant_id))
        assert (await client.get("/v1/ledgers", headers=known)).status_code == 200

        async def ask(number: int) -> httpx.Response:
            return await client.get("/v1/ledgers", headers=bearer(f"{stem}{number:012}"))

        answers = await asyncio.gather(*(ask(number) for number in range(200)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {401, 429}
        assert len(refused) > 100
        assert {(code(answer), answer.headers["retry-after"]) for answer in refused} == {
            ("rate_limited", "1")
        }
        # Who has been recognised goes on all the while; who has not waits as he is told.
        flood = asyncio.gather(*(ask(number) for number in range(200, 300)))
        assert (await client.get("/v1/ledgers", headers=known)).status_code == 200
        await flood
        answer = await client.get("/v1/ledgers", headers=fresh)
        while answer.status_code == 429:
            await asyncio.sleep(int(answer.headers["retry-after"]))
            answer = await client.get("/v1/ledgers", headers=fresh)
        assert answer.status_code == 200


async def test_requests_for_tokens_are_bounded_too(database_url: str) -> None:
    async with worker(database_url, unverified_per_s=5) as (_, client):
        many = (client.post("/oauth/token", data={"grant_type": "client_credentials"}) for _ in range(60))
        answers = await asyncio.gather(*many)
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {401, 429}
        assert len(refused) > 30
        assert {code(answer) for answer in refused} == {"rate_limited"}
        # The operator and the tenants are not concerned.
        assert (await client.get("/v1/tenants")).status_code == 200
