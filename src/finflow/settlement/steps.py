"""A cycle's steps as they are done: a table of what to do in which state, each part safe to repeat.

What the ledger books is keyed by the order, or by the cycle and the attempt; what a rail is sent by its
message id; the decision to settle an attempt or to give it up is a row that is written once, whoever writes
it. So a process killed anywhere leaves nothing, or something that the same step finds again. No transaction
is open while the ledger or a rail is asked. See docs/adr/0017.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock, to_datetime, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.settlement import cycle_store, model, orders, traced
from finflow.settlement.acceptance import Acceptance
from finflow.settlement.books import Books
from finflow.settlement.cycle_store import CycleRow, Submission
from finflow.settlement.database import transaction
from finflow.settlement.finality import Finality
from finflow.settlement.model import MAX_SUBMISSIONS, Action, Step
from finflow.settlement.netting import NettingReport, Obligation, net, totals_of
from finflow.settlement.reconciliation import Reconciler
from finflow.settlement.submission import LEDGER, Submitter

if TYPE_CHECKING:
    import asyncpg

ASK_AGAIN_US: Final = 1_000_000
# A minute after the first failure, then four times as long each time: the fifth is an hour and a half later.
TRY_AGAIN_US: Final = 60_000_000
_GIVEN_UP: Final = "return: "

# What each state asks for, as the step's trace is called.
_CALLED: Final[dict[model.State, str]] = {
    "open": "close", "closed": "net", "netted": "submit", "submitted": "ask_rails", "failed": "submit",
    "settled": "end", "returned": "release",
}  # fmt: skip

# When a cycle goes on, in microseconds; None when nothing of it is left to do.
Due = int | None
Evidence = Callable[[Any], Awaitable[str]]


class Steps:
    """Takes a cycle from state to state. `reached` hears of each place that a crash could be at."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        acceptance: Acceptance,
        submitter: Submitter,
        reconciler: Reconciler,
        ledgers: Books,
        clock: Clock,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._acceptance = acceptance
        self._clock = clock
        self._reached = reached
        self._finality = Finality(pool, acceptance, ledgers, clock, reached)
        self._submitter = submitter
        self._reconciler = reconciler
        self._next: dict[model.State, Callable[[CycleRow], Awaitable[Due]]] = {
            "open": self._close,
            "closed": self._net,
            "netted": self._submit,
            "submitted": self._await_answers,
            "failed": self._submit,
            "settled": self._nothing,
            "returned": self._unwind,
        }

    async def advance(self, ledger_no: int, cycle_no: int) -> Due:
        """Do what a cycle's state asks for, once; when it goes on. Raises cycle_unknown and what stops it."""
        row = await self.read(ledger_no, cycle_no)
        traced.call(_CALLED[row.cycle.state])
        traced.say({"finflow.cycle.id": orders.cycle_id(ledger_no, cycle_no, row.opened_at)})
        _say_orders(row.cycle.evidence_of("close"))
        return await self._next[row.cycle.state](row)

    async def read(self, ledger_no: int, cycle_no: int) -> CycleRow:
        """A cycle. Raises cycle_unknown."""
        async with acquired(self._pool) as connection:
            row = await cycle_store.read_cycle(connection, ledger_no, cycle_no)
        if row is None:
            raise FinFlowError("cycle_unknown")
        return row

    async def _nothing(self, row: CycleRow) -> Due:
        return None

    async def _take(
        self,
        row: CycleRow,
        action: Action,
        evidence: str | Evidence,
        attempt: int = 0,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Due:
        """Keep a step, if the model takes it, with what belongs to it. Raises the model's refusal."""
        async with transaction(self._pool) as connection:
            held = await cycle_store.read_cycle(connection, row.ledger_no, row.cycle.cycle_no, lock=True)
            assert held is not None, "cycles are never removed"
            words = evidence if isinstance(evidence, str) else await evidence(connection)
            taken = model.take(held.cycle, Step(action, to_datetime(self._clock()), words, attempt))
            if isinstance(taken, model.Refused):
                raise FinFlowError(taken.code, taken.detail)
            if taken.changed:
                await cycle_store.add_step(connection, row.ledger_no, taken.cycle)
                if also is not None:
                    await also(connection)
        self._reached(f"{action} kept")
        return self._clock()

    # --- open -> closed -> netted ---

    async def _close(self, row: CycleRow) -> Due:
        due = to_micros(row.cycle.cut_off_at)
        if self._clock() < due:
            return due

        async def extent(connection: Any) -> str:
            words = await cycle_store.read_extent(connection, row.ledger_no, row.cycle.cycle_no)
            _say_orders(words)
            return words

        return await self._take(row, "close", extent)

    async def _net(self, row: CycleRow) -> Due:
        """Hold what is not held yet, then net what is: the report and the step in one transaction."""
        cycle_no = row.cycle.cycle_no
        await self._acceptance.resume(row.ledger_no, cycle_no)
        self._reached("orders held")
        report = net(await self.obligations(row))
        numbers = await self._numbers(row.ledger_no)
        positions = [(numbers[each.participant], each) for each in report.positions]

        async def keep(connection: Any) -> None:
            await cycle_store.add_positions(connection, row.ledger_no, cycle_no, positions)

        return await self._take(row, "net", report.obligations_digest, also=keep)

    async def _numbers(self, ledger_no: int) -> dict[str, int]:
        known = await self._acceptance.participants(ledger_no)
        return {name: each.participant_no for name, each in known.items()}

    async def obligations(self, row: CycleRow) -> list[Obligation]:
        """What the cycle's held orders make participants owe each other; payments to oneself owe nothing."""
        names = {number: name for name, number in (await self._numbers(row.ledger_no)).items()}
        found: list[Obligation] = []
        async for page in self._finality.pages(row):
            found += [
                Obligation(
                    orders.order_id(row.ledger_no, each.order_no, each.accepted_at),
                    names[each.payer_no],
                    names[each.payee_no],
                    row.cycle.currency,
                    each.amount_minor,
                )
                for each in page
                if each.held is not None and each.payer_no != each.payee_no
            ]
        return found

    async def report(self, row: CycleRow) -> NettingReport:
        """The report as it was kept, its totals recounted from its positions."""
        async with acquired(self._pool) as connection:
            kept = await cycle_store.read_positions(connection, row.ledger_no, row.cycle.cycle_no)
        positions = tuple(position for _, position in kept)
        return NettingReport(positions, totals_of(positions), row.cycle.evidence_of("net") or "")

    # --- netted | failed -> submitted -> settled | failed | returned ---

    async def _submit(self, row: CycleRow) -> Due:
        evidence = row.cycle.evidence_of("net") or ""
        return await self._take(row, "submit", evidence, row.cycle.submissions + 1)

    async def _await_answers(self, row: CycleRow) -> Due:
        """Hold the net positions, tell the rails, and, when all have answered, settle or give up.

        Where one rail has taken its orders, the cycle settles, and those that another refused come back.
        """
        known = await self._submitter.known(row)
        decided = _decision(known, row.cycle.submissions)
        if decided is None:
            # A rail is told after the positions are held, so while it is waited for, they are.
            if all(each.attempt != row.cycle.submissions for each in known):
                refusal = await self._finality.hold_positions(row)
                if refusal is not None:
                    return await self._give_up(row, f"{refusal}: net positions")
                self._reached("positions held")
            if not await self._submitter.ask(row):
                if any(each.attempt == row.cycle.submissions for each in known):
                    traced.nothing_new()
                return self._clock() + ASK_AGAIN_US
            verdicts = {
                each.verdict
                for each in await self._submitter.known(row)
                if each.attempt == row.cycle.submissions
            }
            if verdicts == {"rejected"}:
                return await self._give_up(row, "no rail took the cycle")
            decided = await self.decide(row, "accepted", "final")
        if decided.verdict != "accepted":
            return await self._give_up(row, decided.detail or "")
        return await self._settle(row)

    async def decide(self, row: CycleRow, verdict: str, detail: str) -> Submission:
        """Decide an attempt, unless it is decided; the decision that stands."""
        attempt, now = row.cycle.submissions, self._clock()
        key = (row.ledger_no, row.cycle.cycle_no, attempt, LEDGER)
        async with transaction(self._pool) as connection:
            await cycle_store.add_submission(connection, key, "", 0, now)
            await cycle_store.add_answer(connection, key, verdict, detail, now)
        found = _decision(await self._submitter.known(row), attempt)
        assert found is not None, "it was decided now or before"
        self._reached(f"decided {found.verdict}")
        return found

    async def end(self, row: CycleRow, reason: str) -> Submission:
        """Decide that a submitted cycle is returned, unless it was decided otherwise before."""
        if row.cycle.state != "submitted":
            raise FinFlowError("cycle_step_refused", f"the cycle is {row.cycle.state}, not submitted")
        return await self.decide(row, "rejected", _GIVEN_UP + reason)

    async def _give_up(self, row: CycleRow, reason: str) -> Due:
        """An attempt has failed: decide so, release its positions, and fail, or return at the very end."""
        traced.call("give_up")
        attempt = row.cycle.submissions
        last = attempt >= MAX_SUBMISSIONS and not reason.startswith(_GIVEN_UP)
        decided = await self.decide(row, "rejected", _GIVEN_UP + reason if last else reason)
        if decided.verdict != "rejected":
            return self._clock()
        await self._finality.release_positions(row)
        self._reached("positions released")
        detail = decided.detail or ""
        if detail.startswith(_GIVEN_UP):
            return await self._take(row, "return", detail, attempt)
        await self._take(row, "fail", detail, attempt)
        return self._clock() + (TRY_AGAIN_US << 2 * (attempt - 1))

    async def _settle(self, row: CycleRow) -> Due:
        """Post everything that is held, then keep the step."""
        traced.call("settle")
        await self._finality.post_positions(row)
        self._reached("positions posted")
        await self._finality.post_orders(row)
        self._reached("peers posted")
        await self._return_untaken(row)
        await self._reconciler.expect(row)
        return await self._take(row, "settle", row.cycle.evidence_of("net") or "", row.cycle.submissions)

    async def _return_untaken(self, row: CycleRow) -> None:
        """Orders to a rail that refused them all, while another rail took its own, come back one by one."""
        known = [each for each in await self._submitter.known(row) if each.attempt == row.cycle.submissions]
        refused = {each.participant_no: each.detail or "" for each in known if each.verdict == "rejected"}
        reasons: dict[int, str] = {}
        if refused:
            async for page in self._finality.pages(row):
                untaken = [each for each in page if each.payee_no in refused and each.held is not None]
                reasons |= {each.order_no: refused[each.payee_no] for each in untaken}
        if reasons:
            async with transaction(self._pool) as connection:
                await cycle_store.add_returns(connection, row.ledger_no, reasons, "rail", self._clock())

    async def _unwind(self, row: CycleRow) -> Due:
        """A returned cycle: every hold is released, here and on other ledgers."""
        await self._finality.release_orders(row)
        self._reached("orders released")
        return None


def _say_orders(closed: str | None) -> None:
    """How many orders a cycle was closed over, as the evidence of that has it."""
    if closed is not None:
        traced.say({"finflow.orders": int(closed.split(":")[1])})


def _decision(known: Sequence[Submission], attempt: int) -> Submission | None:
    found = (each for each in known if (each.attempt, each.participant_no) == (attempt, LEDGER))
    return next((each for each in found if each.verdict), None)
