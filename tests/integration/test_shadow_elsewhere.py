"""A shadow on a PostgreSQL that is named instead of made, and reads compared over real sockets."""

import random
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from finflow.app.shadow import CLONE_URL, ShadowFolder, start, stop
from finflow.kernel.errors import FinFlowError
from finflow.shadow.reads import Read, compare_reads
from finflow.shadow.report import read_report
from finflow.stack.clone import copy_database
from oracles.service import desk, transfer
from oracles.shadowing import rows
from oracles.trading import market_of, trade


async def test_a_named_database_is_filled_and_emptied(
    database_url: str, database_url_empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLONE_URL, database_url_empty)
    place = ShadowFolder(tmp_path / "shadow")
    async with desk(database_url) as one:
        accounts = await one.open(2)
        await one.do(transfer(*accounts))
        await start(place, database_url, baseline="1.0")
        assert not place.clone.root.exists()
        assert await rows(database_url_empty, "select count(*) from journal") == [(3,)]
        last = await stop(place)
    assert last is not None
    assert last.state == "stopped"
    tables = "select count(*) from pg_tables where schemaname in ('public', 'shadow')"
    assert await rows(database_url_empty, tables) == [(0,)]
    assert read_report(place.root) == last


async def test_a_copy_is_whole_and_only_into_nothing(database_url: str, database_url_empty: str) -> None:

    async with desk(database_url) as one:
        await trade(await market_of(one), random.Random(3), 25)  # noqa: S311 - a test that can be repeated
        copied = await copy_database(database_url, database_url_empty)
    names = await rows(database_url, "select tablename from pg_tables where schemaname = 'public' order by 1")
    total = 0
    for (name,) in names:
        digest = f"select count(*), sum(hashtext(t::text)) from {name} t"  # noqa: S608 - a table's own name
        if name != "schema_migrations":
            assert await rows(database_url, digest) == await rows(database_url_empty, digest), name
            total += (await rows(database_url, f"select count(*) from {name}"))[0][0]  # noqa: S608 - the same
    assert copied == total > 100
    next_quote = "select nextval(pg_get_serial_sequence('fx_quotes', 'quote_no'))"
    assert await rows(database_url, next_quote) == await rows(database_url_empty, next_quote)
    connection = await asyncpg.connect(database_url_empty)
    with pytest.raises(asyncpg.PostgresError, match="history"):
        await connection.execute("delete from journal")
    await connection.close()
    with pytest.raises(FinFlowError, match="clone_failed"):
        await copy_database(database_url, database_url_empty)


class Release:
    """A server that answers reads, with a time that is never the same and maybe a fault."""

    def __init__(self, wrong: bool = False) -> None:
        self.wrong = wrong
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        number = int(request.match_info["number"])
        if request.headers.get("X-Kind") == "text":
            return web.Response(text="plain")
        balance = "9.99" if self.wrong and number == 3 else f"{number}.00"
        body = {"balance": balance, "at": f"{id(self)}-{self.asked}", "items": [{"n": number}]}
        return web.json_response(body, status=404 if self.wrong and number == 5 else 200)


@pytest.fixture
async def releases() -> Any:
    servers: list[web.AppRunner] = []
    urls = []
    for release in (Release(wrong=True), Release(), Release()):
        application = web.Application()
        application.router.add_get("/v1/{number}", release.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        servers.append(runner)
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield urls
    for runner in servers:
        await runner.cleanup()


async def test_reads_without_the_noise(releases: list[str]) -> None:
    candidate, first, second = releases
    reads = [Read(f"/v1/{n}") for n in range(8)] + [Read("/v1/3", {"X-Kind": "text"})]
    found = await compare_reads(candidate, first, second, reads)
    assert (found.compared, found.noisy) == (9, 7)
    assert [(each.path, each.places) for each in found.different] == [
        ("/v1/3", ["balance"]),
        ("/v1/5", ["status"]),
    ]
    assert (found.different[0].baseline, found.different[0].candidate) == (
        {"balance": "3.00"}, {"balance": "9.99"},
    )  # fmt: skip
    clean = await compare_reads(second, first, second, reads)
    assert clean.different == []


async def test_nobody_answers(releases: list[str]) -> None:
    with pytest.raises(FinFlowError, match="reads_unreachable"):
        await compare_reads("http://127.0.0.1:9", *releases[1:], [Read("/v1/1")])
