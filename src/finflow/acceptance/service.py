"""Settlement end to end on a clone: orders in, cut-off, netting, rail, settlement; then the comparison."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finflow.acceptance import model, store
from finflow.acceptance.model import Difference, Found, Planned, Position
from finflow.acceptance.rail import AnsweringRail
from finflow.db.migrations import migrate
from finflow.db.pool import connect, open_pool
from finflow.db.readers import open_readers
from finflow.kernel import ids
from finflow.kernel.clock import system_clock, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.commands import EntryLine, OpenAccount, PostTransaction, Request
from finflow.ledger.service import LedgerService
from finflow.settlement.orders import Creditor, OrderDraft
from finflow.settlement.register import NewParticipant
from finflow.settlement.service import Settlement, SettlementService
from finflow.settlement.worker import Worker

if TYPE_CHECKING:
    import asyncpg

    from finflow.ledger.tenant import TenantLedgers

NAME: Final = "finflow-acceptance (synthetic)"
CALLER: Final = "finflow:acceptance"
DEADLINE_S: Final = 300.0
ORDERS: Final = 400
BATCH: Final = 100
_SECOND_US: Final = 1_000_000
_PAUSE_S: Final = 0.02
_PAID: Final = (["hold", "capture"], ["post"])
_TAKEN_BACK: Final = (
    ["hold", "void"],
    ["hold", "capture", "reverse"],
    ["hold", "capture", "reverse", "post"],
)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How an acceptance went: what was compared, what differed, how long each part took.

    `ledgers` are those that the clone came with: their books were recounted, too.
    """

    clone: str
    ledgers: int
    orders: int
    compared: int
    differences: Sequence[Difference]
    steps: Mapping[str, float]
    duration_s: float

    @property
    def accepted(self) -> bool:
        return not self.differences and self.compared > 0


class JumpingClock:
    """The machine's clock, ahead by as much as it was told: a cut-off need not be waited for."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        return system_clock() + self.ahead_us


async def check_clone(url: str, source_url: str | None = None) -> None:
    """Raises clone_unmarked unless the database says that it is a clone and is not the source's own."""
    its = await _identity(url)
    if its["mark"] != store.MARK:
        raise FinFlowError(
            "clone_unmarked", f"{its['name']}: finflow.environment is {its['mark'] or 'not set'!r}"
        )
    if its["standby"]:
        raise FinFlowError("clone_unmarked", f"{its['name']} is a standby of another server")
    if source_url is not None:
        other = await _identity(source_url)
        if (other["started"], other["name"]) == (its["started"], its["name"]):
            raise FinFlowError("clone_unmarked", f"{its['name']} is production itself")


async def _identity(url: str) -> Any:
    connection = await connect(url, application_name="finflow acceptance")
    try:
        return await store.identity(connection)
    finally:
        await connection.close(timeout=5)


async def accept(
    url: str,
    folder: Path,
    *,
    source_url: str | None = None,
    orders: int = ORDERS,
    deadline_s: float = DEADLINE_S,
    told: Callable[[str], None] = lambda _: None,
    settled: Callable[[], Any] | None = None,
) -> Result:
    """Run it on the clone at `url`, the rail's files in `folder`. `settled` is awaited before the comparison.

    Raises clone_unmarked for any other database, before anything is written; deadline_exceeded.
    """
    await check_clone(url, source_url)
    try:
        async with asyncio.timeout(deadline_s):
            # A backup may be of the release before this one.
            await migrate(url)
            # A check of a large book takes minutes: our deadline is the only one.
            shared: Any = {"application_name": "finflow acceptance", "command_timeout_s": deadline_s}
            pool = await open_pool(url, max_size=8, **shared)
            try:
                readers = await open_readers(url, max_size=4, **shared)
                clock = JumpingClock()
                ledger = LedgerService(pool, readers, clock)
                try:
                    return await _Acceptance(pool, ledger, clock, folder, told).run(orders, settled)
                finally:
                    await ledger.close()
                    await readers.close()
            finally:
                await pool.close()
    except TimeoutError as error:
        raise FinFlowError("deadline_exceeded", f"not done within {deadline_s:g} s") from error


class _Acceptance:
    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledger: LedgerService,
        clock: JumpingClock,
        folder: Path,
        told: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._rail = AnsweringRail(folder)
        self._told = told
        self._room = SettlementService(pool, ledger, clock, {model.RAIL: self._rail})
        self._cycles: set[str] = set()
        self._unlike: list[Difference] = []
        self._steps: dict[str, float] = {}
        self._began_s = time.monotonic()
        self._ledger_id, self._ledger_no = "", 0
        self._settlement: Settlement

    async def run(self, count: int, settled: Callable[[], Any] | None) -> Result:
        planned = model.plan(count)
        await self._open()
        async with self._pool.acquire() as connection:
            before = await store.heads(connection, self._ledger_no)  # type: ignore[arg-type] # a proxy of one
        self._step("ledger opened, members funded")
        await self._give(planned)
        self._step(f"{count} orders given, and given again")
        await self._settle()
        self._step(f"{len(self._cycles)} cycle closed, netted, submitted, settled")
        if settled is not None:
            await settled()
        wanted, found = model.expected(planned), await self._found(before)
        wrong = self._unlike + model.differences(wanted, found)
        self._step("books compared")
        compared = 2 * len(planned) + 2 * len(wanted.positions) + len(wanted.net_minor) + 1
        name = (await self._pool.fetchval("select current_database()")) or ""
        return Result(
            clone=name, ledgers=len(before), orders=count, compared=compared, differences=wrong,
            steps=self._steps, duration_s=round(time.monotonic() - self._began_s, 3),
        )  # fmt: skip

    def _step(self, words: str) -> None:
        self._steps[words] = round(time.monotonic() - self._began_s - sum(self._steps.values()), 3)
        self._told(f"{words} ({self._steps[words]:.1f} s)")

    async def _open(self) -> None:
        """A tenant and a ledger of our own in the clone: members with money, one without, and the rail."""
        tenant = self._ledger.of((await self._ledger.create_tenant(NAME)).tenant_id)
        self._ledger_id = (await tenant.create_ledger(NAME)).ledger_id
        place = ids.parse("led", self._ledger_id)
        assert place is not None, "it was minted just now"
        self._ledger_no = place.ledger_no
        self._settlement = self._room.of(tenant)
        accounts = {name: await self._participant(name) for name in (*model.MEMBERS, model.POOR, model.RAIL)}
        await self._fund(tenant, [accounts[name] for name in model.MEMBERS])

    async def _participant(self, name: str) -> str:
        kind = "rail" if name == model.RAIL else "member"
        new = NewParticipant(name, kind, [model.CURRENCY])  # type: ignore[arg-type] # one of the two words
        view = await self._settlement.add_participant(self._ledger_id, new)
        return view.accounts[0].position_account_id

    async def _fund(self, tenant: "TenantLedgers", accounts: Sequence[str]) -> None:
        opening = OpenAccount(model.CURRENCY, kind="asset", overdraft_limit=None)
        [opened] = await tenant.submit(self._ledger_id, [Request("vault", opening, CALLER)])
        assert opened.account is not None, opened.code
        amount = model.decimal(model.FUNDS_MINOR)
        for account in accounts:
            lines = [
                EntryLine(opened.account.account_id, "debit", amount, model.CURRENCY),
                EntryLine(account, "credit", amount, model.CURRENCY),
            ]
            request = Request(f"fund-{account}", PostTransaction(lines), CALLER)
            [record] = await tenant.submit(self._ledger_id, [request])
            assert record.code is None, record.code

    async def _give(self, planned: Sequence[Planned]) -> None:
        """In batches, each twice under one key, as a client does that lost the answer."""
        for start in range(0, len(planned), BATCH):
            drafts = [_draft(each) for each in planned[start : start + BATCH]]
            key = f"acceptance-{start}"
            first = await self._settlement.accept(self._ledger_id, drafts, key)
            again = await self._settlement.accept(self._ledger_id, drafts, key)
            if first != again:
                self._unlike.append(Difference(f"batch {key}, repeated", "the same answer", "another answer"))
            self._cycles |= {each.cycle_id for each in first if each.cycle_id is not None}

    async def _settle(self) -> None:
        """Past the cut-off; then the worker works on our ledger alone until its cycles have ended."""
        cycles = [await self._settlement.cycle(each) for each in sorted(self._cycles)]
        latest = max(to_micros(cycle.cut_off_at) for cycle in cycles)
        self._clock.ahead_us = max(0, latest - system_clock()) + 60 * _SECOND_US
        # The clone has production's queue, too: that is left alone, and no rail of production is known here.
        worker = Worker(self._room, self._ledger_no)
        while await self._working():
            await worker.until_idle()
            self._clock.ahead_us += _SECOND_US
            await asyncio.sleep(_PAUSE_S)
        for cycle_id in sorted(self._cycles):
            report = await self._settlement.report(cycle_id)
            self._unlike += [
                Difference(f"cycle {cycle_id}, recounted", "sound", words) for words in report.faults
            ]

    async def _working(self) -> bool:
        statement = "select exists (select from settlement_work where ledger_no = $1)"
        return bool(await self._pool.fetchval(statement, self._ledger_no))

    async def _found(self, before: Mapping[int, int]) -> Found:
        async with self._pool.acquire() as connection:
            plain: Any = connection
            await store.analyze(plain)
            rows = await store.orders(plain, self._ledger_no)
            accounts = await store.positions(plain, self._ledger_no)
            nets = await store.nets(plain, self._ledger_no)
            moved = await store.heads(plain, self._ledger_no)
            faults = await store.faults(plain)
        faults += [
            f"ledger {each} was moved by the acceptance" for each in moved if moved[each] != before.get(each)
        ]
        return Found(
            # A position is a liability, so its credits are the member's money.
            positions={r["name"]: Position(-r["position"], r["settlement"]) for r in accounts},
            fates={row["end_to_end_id"]: _fate(list(row["kinds"])) for row in rows},
            amounts={row["end_to_end_id"]: row["amount_minor"] for row in rows},
            net_minor=nets,
            to_rail_minor=sum(self._rail.accepted.values()),
            faults=faults,
        )


def _fate(kinds: list[str]) -> str:
    if kinds in _PAID:
        return "paid"
    if kinds in _TAKEN_BACK:
        return "rejected"
    return "refused" if not kinds else " then ".join(kinds)


def _draft(order: Planned) -> OrderDraft:
    account = model.UNKNOWN_ACCOUNT if order.fate == "rejected" else model.KNOWN_ACCOUNT
    creditor = Creditor("Budi Santoso", account, "BMRIIDJA") if order.payee == model.RAIL else None
    return OrderDraft(
        order.payer, order.payee, model.CURRENCY, order.amount, order.name, mode=order.mode, creditor=creditor
    )
