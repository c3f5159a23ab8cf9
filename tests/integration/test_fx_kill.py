"""One use a quote, whatever happens: processes that want the same ones, kill -9, and lost answers.

FINFLOW_FX_KILL_ROUNDS and FINFLOW_KILL_SEED repeat a run or make a longer one.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from finflow.db.migrations import migrate
from finflow.fx.service import FxService, QuoteDraft, RateDraft
from finflow.kernel.errors import FinFlowError
from finflow.ledger import writer
from finflow.ledger.book import Record
from finflow.ledger.commands import Request
from finflow.stack.folder import DataFolder
from finflow.stack.postgres import EmbeddedPostgres
from oracles.killing import kill_family
from oracles.proxy import Proxy, Where
from oracles.service import ENTRY_SUMS, Clock, Desk, audit, desk, second_desk

ROUNDS = int(os.environ.get("FINFLOW_FX_KILL_ROUNDS", "16"))
SEED = os.environ.get("FINFLOW_KILL_SEED", "7")
TRADER = Path(__file__).parent.parent / "oracles" / "trader.py"
TESTS = Path(__file__).parent.parent
RATE = "1.083517"
TARGETS = ("trader", "trader", "backend", "postmaster")
USED = """
select q.quote_no, q.sell_minor, q.buy_minor, j.key, j.seq
  from fx_quotes q join journal j on j.ledger_no = q.ledger_no and j.target = -q.quote_no and j.code is null
"""


class Exchange:
    """A ledger with a rate, a customer with two accounts, and conversions in a word each."""

    def __init__(self, one: Desk, source: str = "", to: str = "") -> None:
        self.one = one
        self.fx = FxService(one.pool, one.clock).of(one.service)
        self.source, self.to = source, to

    async def set_up(self) -> "Exchange":
        observed = datetime.now(UTC) - timedelta(minutes=1)
        await self.fx.add_rates(
            self.one.ledger_id,
            [RateDraft("EUR", "USD", RATE, "test", observed, observed + timedelta(days=1))],
        )
        [self.source] = await self.one.open(currency="EUR", kind="liability")
        [self.to] = await self.one.open(currency="USD", kind="liability")
        return self

    async def quote(self, amount: str = "100") -> str:
        draft = QuoteDraft("EUR", "USD", "sell", amount, "0.005", 86_400)
        return (await self.fx.quote(self.one.ledger_id, draft, None, "test"))[0].quote_id

    async def convert(self, quote_id: str, key: str) -> Record:
        ledger_id, command = await self.fx.conversion(quote_id, self.source, self.to)
        [record] = await self.one.service.submit(ledger_id, [Request(key, command, "trader")])
        return record

    async def whole(self) -> None:
        """The books: balanced, and on the customer's accounts exactly what the used quotes say."""
        one = self.one
        used = await one.rows(USED)
        assert max(Counter(row["quote_no"] for row in used).values()) == 1
        paid = Decimal(sum(row["sell_minor"] for row in used)) / 100
        got = Decimal(sum(row["buy_minor"] for row in used)) / 100
        assert Decimal((await one.service.balance(self.source)).balance) == -paid
        assert Decimal((await one.service.balance(self.to)).balance) == got
        [euro, dollar] = (await self.fx.positions(one.ledger_id)).positions
        assert Decimal(euro.position) == paid
        income = Decimal(dollar.spread_income) + Decimal(dollar.rounding_income)
        assert Decimal(dollar.position) == -(got + income)
        assert (await one.service.trial_balance(one.ledger_id)).balanced
        await audit(await one.rows(ENTRY_SUMS))


@asynccontextmanager
async def exchange(url: str) -> AsyncIterator[Exchange]:
    async with desk(url, clock=present()) as one:
        yield await Exchange(one).set_up()


def present() -> Clock:
    """Quotes are made at the time of the other processes, which have the machine's clock."""
    return Clock(int(datetime.now(UTC).timestamp() * 1_000_000))


class Traders:
    """Processes that convert, and the notes that they take."""

    def __init__(self, url: str, folder: Path, market: Exchange) -> None:
        self.url = url
        self.notes, self.quotes = folder / "fx-notes", folder / "fx-quotes"
        self.notes.write_text("")
        self.market = market
        self.running: list[asyncio.subprocess.Process] = []
        self.hired = 0

    async def hire(self) -> None:
        self.hired += 1
        words = (
            str(self.notes), f"t{self.hired}", self.market.one.ledger_id, self.url, self.market.source,
            self.market.to, str(self.quotes),
        )  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(TESTS)}
        self.running.append(
            await asyncio.create_subprocess_exec(sys.executable, str(TRADER), *words, env=environment)
        )

    async def kill(self) -> None:
        victim = self.running.pop(0)
        if victim.returncode is None:
            victim.kill()
        await victim.wait()

    def lines(self, mark: str) -> list[list[str]]:
        return [line.split() for line in self.notes.read_text().splitlines() if line.startswith(mark + " ")]

    async def dismiss(self) -> None:
        while self.running:
            await self.kill()


async def settle(traders: Traders, market: Exchange) -> None:
    """Send every key of unknown outcome again; then notes and journal must say the same."""
    assert traders.lines("E") == []
    sent = {key: quote for _, key, quote in traders.lines("S")}
    told = {key: (code, int(seq)) for _, key, code, seq in traders.lines("A")}
    unknown = [key for key in sent if key not in told]
    again = 0
    for key in unknown:
        record = await market.convert(sent[key], key)
        told[key] = (str(record.code), record.seq)
        again += record.replayed
    for _, key, quote_id in traders.lines("Q"):
        draft = QuoteDraft("EUR", "USD", "sell", "7.77", "0.0025", 86_400)
        view, replayed = await market.fx.quote(market.one.ledger_id, draft, key, "trader")
        assert (view.quote_id, replayed) == (quote_id, True)
    rows = await market.one.rows("select key, seq, code from journal where caller = 'trader'")
    assert {row["key"]: (str(row["code"]), row["seq"]) for row in rows} == told
    assert set(Counter(code for code, _ in told.values())) <= {"None", "quote_used"}
    accepted = Counter(sent[key] for key, (code, _) in told.items() if code == "None")
    assert max(accepted.values()) == 1
    assert set(accepted) == set(sent.values()), "a quote that was tried was used by nobody"
    print(f"{len(told)} conversions, {len(accepted)} quotes used, {len(unknown)} unknown, {again} booked")
    await market.whole()


async def test_processes_that_want_the_same_quotes(database_url: str, tmp_path: Path) -> None:
    async with exchange(database_url) as market:
        traders = Traders(database_url, tmp_path, market)
        quotes = [await market.quote(f"{number}.{number:02}") for number in range(1, 61)]
        traders.quotes.write_text("\n".join(quotes))
        for _ in range(4):
            await traders.hire()
        try:
            async with asyncio.timeout(120):
                assert [await each.wait() for each in traders.running] == [0] * 4
        finally:
            await traders.dismiss()
        outcomes = Counter(code for _, key, code, _ in traders.lines("A") if "-o" not in key)
        assert outcomes == {"None": 60, "quote_used": 180}
        await settle(traders, market)
        assert (
            await market.one.value(
                "select deadlocks from pg_stat_database where datname = current_database()"
            )
            == 0
        )


async def test_killed_at_any_moment_a_quote_is_used_once(short_folder: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311 - a test that can be repeated
    server = EmbeddedPostgres(DataFolder(short_folder / "fx-kill"), durable=True)
    await server.start()
    try:
        await migrate(server.url())
        async with exchange(server.url()) as market:
            quotes = [await market.quote(f"{number}.01") for number in range(1, 3001)]
            traders = Traders(server.url(), short_folder, market)
            traders.quotes.write_text("\n".join(quotes))
            ledger_id, accounts = market.one.ledger_id, (market.source, market.to)
        for _ in range(2):
            await traders.hire()
        try:
            for number in range(1, ROUNDS + 1):
                await progress(traders)
                await asyncio.sleep(chance.uniform(0.0, 0.25))
                killed = await kill(server, traders, chance.choice(TARGETS), chance)
                print(f"round {number:2}  answers {len(traders.lines('A')):5}  killed {killed}")
            await progress(traders)
        finally:
            await traders.dismiss()
        async with second_desk(server.url(), ledger_id, "after", present()) as one:
            await settle(traders, Exchange(one, *accounts))
    finally:
        await server.stop()


async def progress(traders: Traders) -> None:
    """Until answers come again, or half a minute has passed."""
    before = len(traders.lines("A"))
    async with asyncio.timeout(30):
        while len(traders.lines("A")) < before + 6:
            assert all(each.returncode is None for each in traders.running), "a trader gave up or is done"
            await asyncio.sleep(0.02)


async def kill(server: EmbeddedPostgres, traders: Traders, target: str, chance: random.Random) -> str:
    if target == "trader":
        await traders.kill()
        await traders.hire()
    elif target == "backend":
        connection = await asyncpg.connect(server.url())
        sql = "select pid from pg_stat_activity where application_name = 'teller'"
        pids = [row[0] for row in await connection.fetch(sql)]
        await connection.close()
        if pids:
            os.kill(chance.choice(pids), signal.SIGKILL)
    else:
        assert server.process is not None
        kill_family(server.process.pid)
        await server.exited()
        await server.start()
    return target


# --- the worst moments, one by one: COMMIT sent, and its answer lost ------------------------------------


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Exchange, Exchange, Proxy]]:
    """An exchange reached directly, the same one through a proxy, and the proxy."""
    with tempfile.TemporaryDirectory(prefix="ffx-") as folder:
        base, _, server = url.partition("?host=")
        proxy = Proxy(Path(server), Path(folder))
        await proxy.start()
        async with exchange(url) as direct:
            one = direct.one
            async with second_desk(f"{base}?host={folder}", one.ledger_id, "p", one.clock) as behind:
                yield direct, Exchange(behind, direct.source, direct.to), proxy
            await proxy.stop()


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_conversion_whose_commit_is_cut_is_resolved(database_url: str, where: Where) -> None:
    async with proxied(database_url) as (direct, behind, proxy):
        for number in range(4):
            quote_id = await direct.quote()
            await behind.fx.conversion(quote_id, behind.source, behind.to)  # the bank's accounts are open
            proxy.cut(where)
            assert (await behind.convert(quote_id, f"a{number}")).code is None
            assert (await direct.convert(quote_id, f"b{number}")).code == "quote_used"
            assert (await behind.convert(quote_id, f"c{number}")).code == "quote_used"
        assert proxy.cut_count == 4
        await direct.whole()


@pytest.mark.parametrize(("where", "rival"), [("before", None), ("after", "quote_used")])
async def test_who_comes_while_an_outcome_is_unknown_gets_the_quote_or_not(
    database_url: str, where: Where, rival: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hears `outcome_unknown`; what the rival hears then is what the first hears at last."""
    async with proxied(database_url) as (direct, behind, proxy):
        warm = await direct.quote()
        assert (await behind.convert(warm, "warm")).code is None
        quote_id = await direct.quote()
        proxy.cut(where)
        with monkeypatch.context() as patched:
            patched.setattr(writer, "RETRY_FOR_S", 0.0)
            with pytest.raises(FinFlowError, match="outcome_unknown"):
                await behind.convert(quote_id, "first")
        assert (await direct.convert(quote_id, "rival")).code == rival
        last = await behind.convert(quote_id, "first")
        assert (last.code, last.replayed) == (("quote_used", False) if rival is None else (None, True))
        await direct.whole()


async def test_the_database_refuses_a_second_use_that_a_program_believed_in(database_url: str) -> None:
    async with exchange(database_url) as market:
        quote_id = await market.quote()
        record = await market.convert(quote_id, "a")
        copy = """
            insert into journal (ledger_no, seq, recorded_at, target, kind, key, caller)
            select ledger_no, seq + 1000, recorded_at, target, kind, 'b', caller from journal where seq = $1
        """
        async with market.one.pool.acquire() as connection:
            with pytest.raises(asyncpg.UniqueViolationError, match="journal_by_target"):
                await connection.execute(copy, record.seq)
