"""A process that takes orders and settles them, until it is done or comes to a place where it kills itself.

Called as `settler.py URL FOLDER LEDGER_ID PLACE COUNT [PEER_ACCOUNT]`: the COUNTth time that it reaches PLACE
it sends itself SIGKILL; `never` is no place. FOLDER is that of the file rail, which the process also plays:
whatever it is sent it accepts. Between three batches of orders and a message at once a worker is at work
already; in the end the rail's bank reports what it has paid.
"""

import asyncio
import hashlib
import io
import os
import re
import signal
import sys
from pathlib import Path

import asyncpg

from finflow.db.pool import acquired
from finflow.kernel.errors import FinFlowError
from finflow.ledger.service import LedgerService
from finflow.ledger.tenant import TenantLedgers
from finflow.settlement import inbox, reconciliation
from finflow.settlement.acceptance import Outcome
from finflow.settlement.orders import OrderDraft
from finflow.settlement.rails import FileRail
from finflow.settlement.service import SettlementService
from finflow.settlement.worker import Worker
from oracles.letters import entry, notification, payment, transfers
from oracles.rail import report
from oracles.service import Clock
from oracles.settling import CREDITOR, HOUR_US, MONDAY, micros
from oracles.teller import open_patiently, tenant_of

BATCHES = 3
SIZE = 60
LETTER = [(f"M-{n}", f"{n + 1}.75") for n in range(40)]
# Small parts, so that there are places between them.
inbox.MAX_ORDERS = 15  # type: ignore[misc] # a constant elsewhere
reconciliation.MATCHES_AT_ONCE = 4  # type: ignore[misc] # the same
_PAID = re.compile(r"<(?:\w+:)?UETR[^>]*>([^<]+)<.*?<(?:\w+:)?IntrBkSttlmAmt[^>]*>([^<]+)<", re.DOTALL)


class AnsweringRail(FileRail):
    """Files out, and at once the file in that accepts them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    async def send(self, message_id: str, data: bytes) -> None:
        await super().send(message_id, data)
        (self.folder / "in" / f"{message_id}.xml").write_bytes(report(f"R-{message_id}", message_id))


def drafts(batch: int, peer_account: str | None) -> list[OrderDraft]:
    """A batch: payments between members, to a rail and, with an account there, to another ledger."""
    members = ("ALFA", "BETA", "CITI")
    found = []
    for n in range(SIZE):
        payer, payee = members[n % 3], members[(n + 1 + n // 3 % 2) % 3]
        name, amount = f"{batch}-{n}", f"{n + 1}.{batch:02}"
        mode = "gross" if n % 7 == 0 else "net"
        if n % 10 == 9:
            found.append(OrderDraft(payer, "BIFAST", "SGD", amount, name, creditor=CREDITOR))
        elif n % 10 >= 7 and peer_account is not None:
            found.append(
                OrderDraft(payer, "THERE", "SGD", amount, name, payee_account_id=peer_account, mode=mode)  # type: ignore[arg-type] # a literal
            )
        else:
            found.append(OrderDraft(payer, payee, "SGD", amount, name, mode=mode))  # type: ignore[arg-type] # the same
    return found


async def take(
    room: SettlementService, ledger: TenantLedgers, ledger_id: str, batch: int, peer: str | None
) -> None:
    while True:
        try:
            taken = await room.of(ledger).accept(ledger_id, drafts(batch, peer), f"batch-{batch}")
        except FinFlowError as error:
            if not error.kind.retryable:
                raise
            await asyncio.sleep(0.05)
            continue
        assert all(isinstance(each, Outcome) and each.code is None for each in taken), taken
        return


async def send(
    room: SettlementService, ledger: TenantLedgers, ledger_id: str, sender: str, data: bytes
) -> None:
    while True:
        content = inbox.Spooled(io.BytesIO(data), hashlib.sha256(data).digest())
        try:
            taken = await room.of(ledger).take_message(ledger_id, sender, None, content)
        except FinFlowError as error:
            if not error.kind.retryable:
                raise
            await asyncio.sleep(0.05)
            continue
        assert not taken.refused, taken
        return


def booked(folder: Path) -> bytes:
    """What the rail's bank says of everything that the rail was sent: each payment, by its UETR."""
    text = "".join(path.read_text() for path in sorted((folder / "out").glob("*.xml")))
    return notification("C-1", [entry(amount, UETR=uetr) for uetr, amount in _PAID.findall(text)])


async def unfinished(pool: "asyncpg.Pool[asyncpg.Record]") -> bool:
    try:
        async with acquired(pool) as connection:
            return bool(await connection.fetchval("select exists (select from settlement_work)"))
    except FinFlowError:
        return True


async def done(pool: "asyncpg.Pool[asyncpg.Record]", clock: Clock, running: "asyncio.Task[None]") -> None:
    """Wait until nothing is left to do, while time goes on."""
    async with asyncio.timeout(120):
        while await unfinished(pool):
            assert not running.done(), running.exception()
            clock.at += 1_000_000
            await asyncio.sleep(0.05)


async def main(
    url: str, folder: str, ledger_id: str, place: str, count: str, peer: str | None = None
) -> None:
    left = int(count)

    def reached(name: str) -> None:
        nonlocal left
        if name == place:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    clock = Clock(micros(MONDAY))
    pool, readers = await open_patiently(url, max_size=8)
    ledger = LedgerService(pool, readers, clock)
    tenant = ledger.of(await tenant_of(ledger, ledger_id))
    rail = AnsweringRail(Path(folder))
    room = SettlementService(pool, ledger, clock, {"BIFAST": rail}, reached, 0.6)
    worker = Worker(room, lease_s=0.6)
    running = asyncio.create_task(worker.run())
    letter = transfers("M", [payment(*each) for each in LETTER])
    await asyncio.gather(
        *(take(room, tenant, ledger_id, batch, peer) for batch in range(BATCHES)),
        send(room, tenant, ledger_id, "ALFA", letter),
    )
    # A repetition after the cut-off opens the next day's cycle, which stays empty: past that one, too.
    clock.at += 40 * HOUR_US
    await done(pool, clock, running)
    await send(room, tenant, ledger_id, "BIFAST", booked(Path(folder)))
    await done(pool, clock, running)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await worker.check_mirrors() == []
    await ledger.close()
    await readers.close()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
