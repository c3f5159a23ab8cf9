"""The interface in hard times, over real sockets: told to stop, overloaded, teased by slow clients."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from oracles.http import Bank, code
from oracles.tokens import operator_token
from oracles.workers import worker


@asynccontextmanager
async def head_locked(database_url: str) -> AsyncIterator[None]:
    """Nothing commits in this block: somebody else holds every ledger's head."""
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("select from heads for update")
            yield
    finally:
        await blocker.close()


async def _writer_waits(database_url: str) -> None:
    """Until a backend waits for the head's lock: what was sent is then inside the server."""
    waiting = "datname = current_database() and wait_event_type = 'Lock'"
    sql = f"select count(*) from pg_stat_activity where {waiting}"  # noqa: S608 - a constant
    watcher = await asyncpg.connect(database_url)
    try:
        while await watcher.fetchval(sql) == 0:
            await asyncio.sleep(0.02)
    finally:
        await watcher.close()


async def test_what_is_in_flight_when_a_worker_is_told_to_stop_is_answered(database_url: str) -> None:
    async with worker(database_url) as (child, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        async with head_locked(database_url):
            sending = [asyncio.create_task(one.post(one.transfer(a, b, "1"), f"k{n}")) for n in range(80)]
            await _writer_waits(database_url)
            # All of them are on the wire and read: the pool holds 100 connections, the worker takes 1,024.
            await asyncio.sleep(0.5)
            child.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            with pytest.raises(httpx.TransportError):
                async with httpx.AsyncClient(base_url=client.base_url, timeout=2) as late:
                    await late.get("/healthz")
            assert not any(task.done() for task in sending)
        answers = await asyncio.gather(*sending, return_exceptions=True)
        assert [answer for answer in answers if not isinstance(answer, httpx.Response)] == []
        assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {201}
        assert await asyncio.wait_for(child.wait(), 30) in (0, -signal.SIGTERM)
    async with worker(database_url) as (_, client):
        assert await one.elsewhere(client).balance(b) == "80.00"


async def test_a_full_queue_sheds_and_says_when_to_come_again(database_url: str) -> None:
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        member = one.transfer(a, b, "0.01")
        del member["ledger_id"]
        body = {"ledger_id": one.ledger_id, "transactions": [member] * 10_000}
        async with head_locked(database_url):
            many = [asyncio.create_task(one.send("/v1/transactions:batch", body, f"b{n}")) for n in range(8)]
            await asyncio.wait(many, return_when=asyncio.FIRST_COMPLETED)
            refused = next(task for task in many if task.done()).result()
            assert (refused.status_code, code(refused), refused.headers["retry-after"]) == (
                503,
                "overloaded",
                "1",
            )
            assert refused.json()["retryable"] is True
            assert (await client.get("/healthz")).status_code == 200
        answers = await asyncio.gather(*many)
        taken = [answer for answer in answers if answer.status_code == 200]
        shed = [answer for answer in answers if answer.status_code == 503]
        assert taken
        assert shed
        assert len(taken) + len(shed) == 8
        assert await one.balance(b) == f"{len(taken) * 100}.00"
        # The same request with the same key, as the hint says.
        again = await one.send("/v1/transactions:batch", body, f"b{answers.index(shed[0])}")
        assert (again.status_code, again.json()["posted"]) == (200, 10_000)


async def test_clients_that_dawdle_keep_nobody_waiting(database_url: str) -> None:
    async with worker(database_url) as (_, client):
        host, port = client.base_url.host, client.base_url.port
        # Known callers, so that the worker waits for their bodies.
        known = f"Authorization: Bearer {operator_token()}\r\n".encode()
        slow = [await asyncio.open_connection(host, port) for _ in range(200)]
        for number, (_, writer) in enumerate(slow):
            # Half of them stop inside the headers, half inside the body.
            head = b"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + known
            writer.write(head if number % 2 else head + b"Content-Length: 100\r\n\r\n{")
            await writer.drain()
        for _ in range(20):
            assert (await client.get("/healthz", timeout=5)).status_code == 200
        assert (await client.post("/v1/tenants", json={"name": "T"}, timeout=5)).status_code == 201
        # Whoever never ends the headers is hung up on.
        assert await asyncio.wait_for(slow[1][0].read(), 60) == b""
        for _, writer in slow:
            writer.close()


@pytest.mark.parametrize("seed", range(4))
async def test_bytes_that_are_almost_json_are_answered(database_url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - seeded mutations
    async with worker(database_url) as (_, client):
        one = await Bank(client).found()
        a, b = await one.open(), await one.open()
        body = one.transfer(
            a, b, "1", metadata={"k": "v"}, effective_at="2026-01-01T00:00:00Z", description="d"
        )
        whole = httpx.Request("POST", "http://x", json=body).content
        for number in range(250):
            content = _mutated(whole, chance)
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"f{number}"}
            answer = await client.post("/v1/transactions", content=content, headers=headers)
            assert answer.status_code in (201, 400, 404, 422), content
            if answer.status_code != 201:
                code(answer)
        books = (await client.get(f"/v1/ledgers/{one.ledger_id}/trial-balance")).json()
        assert books["balanced"] is True


def _mutated(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content))
        match chance.randrange(5):
            case 0:
                content[place] = chance.randrange(256)
            case 1:
                del content[place : place + chance.randint(1, 8)]
            case 2:
                content[place:place] = chance.choice(
                    [b'"', b"{", b"[", b"\\u0000", b"1e999", b"null", b",", b"\xff"]
                )
            case 3:
                content[place:place] = content[place : place + chance.randint(1, 40)]
            case _:
                content = content[: place + 1]
    return bytes(content)
