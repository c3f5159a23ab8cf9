"""The shell of settlement: participants, orders in, cycles stepped and shown. Callers come in through `of`.

What became of an order is in the ledger's journal, and nowhere else: see orders.py. Cycles go on by the
worker (worker.py); whatever a caller can hurry here, the worker would do by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import available_timezones

from finflow.db.gathering import Gathering
from finflow.db.pool import acquired
from finflow.kernel import ids
from finflow.kernel.clock import Clock, system_clock, to_datetime, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger.lists import Page, Span
from finflow.ledger.service import LedgerService
from finflow.settlement import (
    audit_store,
    cycle_store,
    mirrors,
    order_reads,
    participant_store,
    reconciliation_reads,
    reconciliation_store,
    views,
    work_store,
)
from finflow.settlement.acceptance import LEASE_S, Acceptance, Outcome
from finflow.settlement.audits import AuditView, show_audit
from finflow.settlement.books import EveryLedger, Ledgers
from finflow.settlement.calendars import CutOff, business_days
from finflow.settlement.cycle_store import CycleRow
from finflow.settlement.inbox import Inbox, MessageView, Spooled
from finflow.settlement.netting import faults_against
from finflow.settlement.orders import OrderDraft, cycle_id, order_id
from finflow.settlement.ports import Rail
from finflow.settlement.reconciliation import Reconciler
from finflow.settlement.reconciliation_reads import (
    NostroView,
    ReconciliationView,
    show_nostro,
    show_reconciliation,
)
from finflow.settlement.register import NewParticipant, Register
from finflow.settlement.returns import Returns
from finflow.settlement.steps import Steps
from finflow.settlement.submission import Submitter

if TYPE_CHECKING:
    import asyncpg

MAX_REASON: Final = 140
AUDITS_AT_ONCE: Final = 64


class SettlementService:
    """What a process has one of for settlement.

    It books on all ledgers, because an order may lead to another tenant's; what a caller may see is decided
    by the ledgers that `of` is given: `ledger.of(tenant_id)`. `rails` are known by the names of their
    participants, and `reached` hears of each place that a process could be killed at. `lease_s` is how long a
    batch is left to the process that took it before a worker goes on with it.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledger: LedgerService,
        clock: Clock = system_clock,
        rails: Mapping[str, Rail] | None = None,
        reached: Callable[[str], None] = lambda _: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self.pool = pool
        self.clock = clock
        self.ledgers = ledgers = EveryLedger(ledger)
        self.acceptance = Acceptance(pool, ledgers, clock, reached, lease_s)
        self.reconciler = Reconciler(pool, clock, reached)
        self.submitter = Submitter(
            pool, rails or {}, clock, self.reconciler, self.acceptance.tenant_id, reached
        )
        self.steps = Steps(pool, self.acceptance, self.submitter, self.reconciler, ledgers, clock, reached)
        self.inbox = Inbox(pool, self.acceptance, self.submitter, self.reconciler, clock, reached)
        self.returns = Returns(pool, self.acceptance, ledgers, clock)
        self.audits = Gathering("settlement.audit", self._read_audits, AUDITS_AT_ONCE)

    def of(self, ledgers: Ledgers) -> "Settlement":
        """Settlement on these ledgers, and on no others."""
        return Settlement(self, ledgers)

    async def _read_audits(self, wanted: Sequence[tuple[int, int]]) -> list[order_reads.OrderRow | None]:
        async with acquired(self.pool) as connection:
            return await audit_store.read_audits(connection, wanted)


class Settlement:
    """Participants, orders and cycles of somebody's ledgers. Ids and decimal strings in, views out.

    Raises ledger_unknown for other ledgers, order_unknown and cycle_unknown for what is on them.
    """

    def __init__(self, room: SettlementService, ledgers: Ledgers) -> None:
        self._room = room
        self._ledgers = ledgers

    # --- who takes part, and when ---

    async def add_participant(self, ledger_id: str, new: NewParticipant) -> views.ParticipantView:
        """Register a participant with accounts in some currencies; more currencies may be added later.

        Raises participant_conflict, too_many_participants, currency_unknown, ledger_unknown for the peer.
        """
        ledger_no = await self._ledger_no(ledger_id)
        register = Register(self._room.pool, self._room.ledgers, self._ledgers, self._room.clock)
        added = await register.add(ledger_id, ledger_no, new)
        self._room.acceptance.forget(ledger_no)
        return views.show_participant(added, ledger_id)

    async def participants(self, ledger_id: str) -> list[views.ParticipantView]:
        """All participants of a ledger, in the order of their registration."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._room.pool) as connection:
            found = await participant_store.read_participants(connection, ledger_no)
        return [views.show_participant(each, ledger_id) for each in found]

    async def set_cut_off(self, ledger_id: str, cut_off: CutOff) -> None:
        """Keep a cut-off of this ledger's own; the first one of a currency replaces FinFlow's.

        Raises calendar_unknown, zone_unknown. Cycles that are open keep theirs.
        """
        business_days(cut_off.calendar)
        if cut_off.zone not in available_timezones():
            raise FinFlowError("zone_unknown", f"{cut_off.zone[:40]!r}", "zone")
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._room.pool) as connection:
            await participant_store.add_cut_off(connection, ledger_no, cut_off)

    # --- orders ---

    async def accept(self, ledger_id: str, drafts: Sequence[OrderDraft], key: str) -> list[Outcome]:
        """Take orders of one ledger's payers; an outcome each. See Acceptance.accept."""
        return await self._room.acceptance.accept(await self._ledger_no(ledger_id), drafts, key)

    async def order(self, order_id: str) -> views.OrderView:
        """An order and what became of it. Raises order_unknown."""
        ledger_id, ledger_no, number = await self._place("ord", order_id, "order_unknown")
        async with acquired(self._room.pool) as connection:
            found = await order_reads.read_order_rows(connection, ledger_no, [number])
        shown = views.show_order(found[0], ledger_id) if found else None
        # The number alone could be guessed; the whole id was given to somebody.
        if shown is None or shown.order_id != order_id:
            raise FinFlowError("order_unknown", f"no order {order_id[:40]!r}")
        return shown

    async def audit(self, order_id: str) -> AuditView:
        """Everything about an order, by one statement, shared with whoever asks meanwhile.

        Raises order_unknown and overloaded.
        """
        ledger_id, ledger_no, number = await self._place("ord", order_id, "order_unknown")
        found = await self._room.audits.ask((ledger_no, number))
        shown = None if found is None else show_audit(found, ledger_id)
        if shown is None or shown.order.order_id != order_id:
            raise FinFlowError("order_unknown", f"no order {order_id[:40]!r}")
        return shown

    async def orders(self, ledger_id: str, span: Span, cycle_id: str | None = None) -> Page[views.OrderView]:
        """A page of a ledger's orders, or of one cycle's, in the order of their acceptance."""
        ledger_no = await self._ledger_no(ledger_id)
        cycle_no = None if cycle_id is None else await self._cycle_no(cycle_id, ledger_no)
        async with acquired(self._room.pool) as connection:
            found = await order_reads.read_order_page(
                connection, ledger_no, cycle_no, span.after or 0, span.limit + 1
            )
        shown = [views.show_order(each, ledger_id) for each in found]
        return Page.of(shown, span, [each.row["order_no"] for each in found])

    async def return_order(self, order_id: str, reason: str, source: str) -> views.OrderView:
        """Have a settled order brought back. Raises order_unknown, order_not_settled, order_malformed."""
        if not 1 <= len(reason) <= MAX_REASON:
            raise FinFlowError("order_malformed", f"a reason has 1 to {MAX_REASON} characters", "reason")
        await self.order(order_id)
        _, ledger_no, number = await self._place("ord", order_id, "order_unknown")
        await self._room.returns.ask(ledger_no, number, reason, source)
        return await self.order(order_id)

    # --- cycles ---

    async def cycle(self, cycle_id: str) -> views.CycleView:
        """A cycle with its timeline. Raises cycle_unknown."""
        return await self._show(await self._cycle(cycle_id))

    async def cycles(self, ledger_id: str, span: Span) -> Page[views.CycleView]:
        """A page of a ledger's cycles in the order of their opening, with their steps."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._room.pool) as connection:
            rows = await cycle_store.read_cycle_page(connection, ledger_no, span.after or 0, span.limit + 1)
        shown = [views.show_cycle(row, ledger_id, [], None) for row in rows]
        return Page.of(shown, span, [row.cycle.cycle_no for row in rows])

    async def report(self, cycle_id: str) -> views.ReportView:
        """A cycle's netting report, recounted from its orders. Raises cycle_unknown, cycle_not_netted."""
        row = await self._cycle(cycle_id)
        if row.cycle.evidence_of("net") is None:
            raise FinFlowError("cycle_not_netted", f"the cycle is {row.cycle.state}")
        report = await self._room.steps.report(row)
        faults = faults_against(report, await self._room.steps.obligations(row))
        return views.show_report(row, report, faults)

    async def retry(self, cycle_id: str) -> views.CycleView:
        """Have a cycle go on now instead of when it would. Raises cycle_unknown."""
        row = await self._cycle(cycle_id)
        async with acquired(self._room.pool) as connection:
            number = row.cycle.cycle_no
            await work_store.hurry(connection, (row.ledger_no, "cycle", number), self._room.clock())
        return await self._show(row)

    async def run(self, cycle_id: str) -> views.CycleView:
        """Have a cycle whose cut-off is over go on now. Raises cycle_unknown, cycle_not_due."""
        cycle = (await self._cycle(cycle_id)).cycle
        if cycle.state == "open" and self._room.clock() < to_micros(cycle.cut_off_at):
            raise FinFlowError("cycle_not_due", f"the cut-off is at {cycle.cut_off_at.isoformat()}")
        return await self.retry(cycle_id)

    async def resubmit(self, cycle_id: str) -> views.CycleView:
        """Have a failed cycle submitted again now. Raises cycle_unknown, cycle_step_refused for others."""
        cycle = (await self._cycle(cycle_id)).cycle
        if cycle.state != "failed":
            raise FinFlowError("cycle_step_refused", f"the cycle is {cycle.state}, not failed")
        return await self.retry(cycle_id)

    async def end_cycle(self, cycle_id: str, reason: str) -> views.CycleView:
        """Have a submitted cycle returned: its holds are released and nothing is paid.

        Raises cycle_unknown, cycle_step_refused for a cycle in another state, and cycle_step_conflict if it
        was decided before that it settles.
        """
        row = await self._cycle(cycle_id)
        decided = await self._room.steps.end(row, reason[:MAX_REASON])
        if decided.verdict == "accepted":
            raise FinFlowError("cycle_step_conflict", "it was decided before that the cycle settles")
        return await self.retry(cycle_id)

    async def mirrors(self, ledger_id: str) -> list[views.MirrorView]:
        """Whether this ledger and those that it pays have the same in their books, at this moment."""
        ledger_no = await self._ledger_no(ledger_id)
        async with acquired(self._room.pool) as connection:
            found = await mirrors.read_mirrors(connection, [ledger_no])
        return [
            views.show_mirror(each, ledger_id, await self._room.acceptance.ledger_id(each.peer_ledger_no))
            for each in found
        ]

    # --- messages and reconciliation ---

    async def check_ledger(self, ledger_id: str) -> None:
        """Raises ledger_unknown."""
        await self._ledger_no(ledger_id)

    async def take_message(
        self, ledger_id: str, sender: str, rail: str | None, content: Spooled
    ) -> MessageView:
        """Take an ISO 20022 message; see Inbox.take."""
        ledger_no = await self._ledger_no(ledger_id)
        return await self._room.inbox.take(ledger_id, ledger_no, sender, rail, content)

    async def add_nostro(
        self, ledger_id: str, participant: str, currency: str, account: str, owner: str
    ) -> NostroView:
        """Register an account of ours at another bank. Raises participant_unknown, nostro_conflict."""
        ledger_no = await self._ledger_no(ledger_id)
        known = await self._room.acceptance.participants(ledger_no, {participant})
        if participant not in known:
            raise FinFlowError("participant_unknown", f"{participant[:40]!r}", "participant")
        found = await self._room.reconciler.add_nostro(
            ledger_no, known[participant], currency, account, owner
        )
        return show_nostro(found, ledger_id)

    async def nostros(self, ledger_id: str) -> list[NostroView]:
        """All nostros of a ledger, in the order of their registration."""
        found = await self._room.reconciler.nostros(await self._ledger_no(ledger_id))
        return [show_nostro(each, ledger_id) for each in found]

    async def reconciliation(self, ledger_id: str, span: Span) -> tuple[ReconciliationView, Page[Any]]:
        """How a ledger's nostros stand, and a page of breaks in the order in which they came."""
        ledger_no, now = await self._ledger_no(ledger_id), self._room.clock()
        async with (
            acquired(self._room.pool) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            nostros = await reconciliation_store.read_nostros(connection, ledger_no)
            reports = await reconciliation_reads.read_reports(connection, ledger_no, nostros, now)
            breaks = await reconciliation_reads.read_breaks(
                connection, ledger_no, nostros, now, span.after or 0, span.limit + 1
            )
        page = Page.of([each for _, each in breaks], span, [number for number, _ in breaks])
        return show_reconciliation(ledger_id, now, reports, page.items), page

    # --- where things are ---

    async def _ledger_no(self, ledger_id: str) -> int:
        await self._ledgers.ledger(ledger_id)
        place = ids.parse("led", ledger_id)
        assert place is not None, "the directory found it"
        return place.ledger_no

    async def _place(self, prefix: str, text: str, code: str) -> tuple[str, int, int]:
        """The ledger's id and number and the row's number that an id points to, if the caller may see it."""
        place = ids.parse(prefix, text)
        if place is None:
            raise FinFlowError(code, f"{text[:40]!r} is not an id of this kind")
        try:
            ledger = await self._ledgers.ledger_holding(prefix, text)
        except FinFlowError as error:
            if error.kind.code != "resource_unknown":
                raise
            raise FinFlowError(code, f"no {text[:40]!r}") from error
        return ledger.ledger_id, place.ledger_no, place.number

    async def _cycle(self, text: str) -> CycleRow:
        _, ledger_no, number = await self._place("cyc", text, "cycle_unknown")
        row = await self._room.steps.read(ledger_no, number)
        if cycle_id(ledger_no, number, row.opened_at) != text:
            raise FinFlowError("cycle_unknown", f"no cycle {text!r}")
        return row

    async def _cycle_no(self, text: str, ledger_no: int) -> int:
        row = await self._cycle(text)
        if row.ledger_no != ledger_no:
            raise FinFlowError("cycle_unknown", f"no cycle {text!r} on this ledger")
        return row.cycle.cycle_no

    async def _show(self, row: CycleRow) -> views.CycleView:
        number = row.cycle.cycle_no
        async with acquired(self._room.pool) as connection:
            submissions = await cycle_store.read_submissions(connection, row.ledger_no, number)
            work = await work_store.read(connection, (row.ledger_no, "cycle", number))
        pending = None if work is None else views.PendingWork(to_datetime(work[0]), work[1], work[2])
        ledger_id = await self._room.acceptance.ledger_id(row.ledger_no)
        return views.show_cycle(row, ledger_id, submissions, pending)


__all__ = ["NewParticipant", "Outcome", "Settlement", "SettlementService", "order_id"]
