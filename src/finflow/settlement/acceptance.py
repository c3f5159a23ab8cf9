"""Taking orders in: checked, kept with their cycle in one transaction, then held by the ledger in one batch.

Orders are kept before their money is held, with a note in the queue: whoever is killed in between leaves a
note, and a worker holds what is not held yet, under the same keys.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock, to_datetime, to_micros
from finflow.kernel.errors import FinFlowError
from finflow.ledger import directory
from finflow.ledger.book import Record
from finflow.ledger.views import LedgerView
from finflow.settlement import (
    cycle_store,
    order_store,
    orders,
    participant_store,
    planning,
    schedule,
    traced,
    work_store,
)
from finflow.settlement.books import Books, book_all, resolve_all
from finflow.settlement.database import Bound, transaction
from finflow.settlement.order_store import NewOrder
from finflow.settlement.orders import MAX_ORDERS, Held, Order, OrderDraft
from finflow.settlement.participant_store import Accounts, Participant

if TYPE_CHECKING:
    import asyncpg

    from finflow.ledger.store import Connection

ACCEPTING_AT_ONCE: Final = 3
LEASE_S: Final = 30.0
PAGE: Final = 10_000
MAX_LEDGERS: Final = 10_000


class Outcome(NamedTuple):
    """What became of a draft: the order and its cycle, or why it was not taken (`code`, `param`)."""

    order_id: str | None
    cycle_id: str | None
    code: str | None = None
    param: str | None = None


class Cycles(NamedTuple):
    """The open cycles that a batch joins: number and id by currency."""

    numbers: dict[str, int]
    names: dict[int, str]


class Acceptance:
    """Takes orders of any ledger. `ledgers` are all of them: an order may lead to another one."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        ledgers: Books,
        clock: Clock,
        reached: Callable[[str], None] = lambda _: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._reached = reached
        self._lease_s = lease_s
        self._pool = pool
        self._ledgers = ledgers
        self._clock = clock
        self._bound = Bound(ACCEPTING_AT_ONCE)
        self._worker = f"accept-{secrets.token_hex(4)}"
        self._known: dict[int, LedgerView] = {}
        self._participants: dict[int, dict[str, Participant]] = {}

    async def accept(self, ledger_no: int, drafts: Sequence[OrderDraft], key: str) -> list[Outcome]:
        """Take orders; an outcome each, in order. The same again under the same key answers the same.

        Raises batch_empty, batch_too_large, overloaded and what the database does; then nothing is known of
        the orders, and the same request under the same key finds out.
        """
        if not drafts:
            raise FinFlowError("batch_empty")
        if len(drafts) > MAX_ORDERS:
            raise FinFlowError("batch_too_large", f"{len(drafts)} orders", "orders")
        async with self._bound.slot():
            planned = await self._plan(ledger_no, drafts, key)
            new = [each for each in planned if isinstance(each, NewOrder)]
            if not new:
                return [each for each in planned if isinstance(each, Outcome)]
            batch_no, kept, cycles = await self._keep(ledger_no, new)
            self._reached("orders kept")
            found = [each for each in kept.values() if isinstance(each, Order)]
            codes = await self.pay(ledger_no, found)
            await self._post_at_once(ledger_no, found)
            self._reached("orders paid")
            await self._finish(ledger_no, batch_no)
        return [
            each if isinstance(each, Outcome) else _outcome(kept[each.place], codes, cycles)
            for each in planned
        ]

    async def ledger_id(self, ledger_no: int) -> str:
        """The id of a ledger by its number."""
        return (await self._ledger(ledger_no)).ledger_id

    async def tenant_id(self, ledger_no: int) -> str:
        """Whose a ledger is, by its number."""
        return (await self._ledger(ledger_no)).tenant_id

    async def _ledger(self, ledger_no: int) -> LedgerView:
        known = self._known.get(ledger_no)
        if known is None:
            async with acquired(self._pool) as connection:
                known = await directory.read_ledger(connection, ledger_no)
            assert known is not None, "participants and orders refer to ledgers that exist"
            if len(self._known) >= MAX_LEDGERS:
                self._known.clear()
            self._known[ledger_no] = known
        return known

    async def participants(self, ledger_no: int, names: set[str] | None = None) -> dict[str, Participant]:
        """The participants of a ledger by name; read anew if one of `names` is not among those known."""
        known = self._participants.get(ledger_no)
        if known is None or names is None or not names <= known.keys():
            async with acquired(self._pool) as connection:
                found = await participant_store.read_participants(connection, ledger_no)
            if len(self._participants) >= MAX_LEDGERS:
                self._participants.clear()
            known = self._participants[ledger_no] = {each.name: each for each in found}
        return known

    def forget(self, ledger_no: int) -> None:
        """A ledger's participants have changed."""
        self._participants.pop(ledger_no, None)

    # --- checking ---

    async def check(self, ledger_no: int, drafts: Sequence[OrderDraft]) -> list[Outcome]:
        """What is wrong with drafts already, by their codes; nothing is kept."""
        planned = await self._plan(ledger_no, drafts, "")
        return [each if isinstance(each, Outcome) else Outcome(None, None) for each in planned]

    async def _plan(self, ledger_no: int, drafts: Sequence[OrderDraft], key: str) -> list[NewOrder | Outcome]:
        names = {name for draft in drafts for name in (draft.payer, draft.payee)}
        known = await self.participants(ledger_no, names)
        peers = {p.peer_ledger_no for name in names if (p := known.get(name)) and p.peer_ledger_no}
        mirrors = {peer: await self._mirror(peer, ledger_no) for peer in peers}
        async with acquired(self._pool) as connection:
            accounts = await planning.named_accounts(connection, drafts, {ledger_no, *peers})
        planned: list[NewOrder | Outcome] = []
        seen: set[tuple[int, str]] = set()
        for place, draft in enumerate(drafts):
            try:
                new = planning.new_order(place, draft, f"{key}:{place}", ledger_no, known, mirrors, accounts)
                if new.name in seen:
                    raise FinFlowError("order_duplicate", param="end_to_end_id")
                seen.add(new.name)
                planned.append(new)
            except FinFlowError as error:
                planned.append(Outcome(None, None, error.kind.code, error.param))
        return planned

    async def _mirror(self, peer_ledger_no: int, ledger_no: int) -> dict[str, Accounts]:
        """The accounts that stand on another ledger for this one, by currency; none if it has none."""
        known = await self.participants(peer_ledger_no, set())
        found = [each for each in known.values() if each.peer_ledger_no == ledger_no]
        if not found:
            known = await self.participants(peer_ledger_no)
            found = [each for each in known.values() if each.peer_ledger_no == ledger_no]
        return found[0].accounts if found else {}

    # --- keeping ---

    async def _keep(
        self, ledger_no: int, new: Sequence[NewOrder]
    ) -> tuple[int, dict[int, Order | Outcome], Cycles]:
        """Keep orders and join their cycles, in one transaction; what each draft's place became."""
        now = self._clock()
        async with transaction(self._pool) as connection:
            batch_no = await order_store.next_batch_no(connection)
            wanted = {each.currency: each.exponent for each in new if each.cycle_no == 0}
            cycles = await self._join(connection, ledger_no, wanted, now)
            # Sorted, so that two batches with the same orders wait for each other in one order.
            rows = sorted((_in_cycle(each, cycles) for each in new), key=lambda each: each.name)
            added = await order_store.add_orders(connection, ledger_no, batch_no, now, rows)
            kept: dict[int, Order | Outcome] = {
                row.place: row.order(ledger_no, batch_no, added[row.name], now)
                for row in rows
                if row.name in added
            }
            others = [row for row in rows if row.name not in added]
            if others:
                kept |= await _known(connection, ledger_no, others)
                await _name_others(connection, ledger_no, kept, cycles)
            await work_store.add_work(
                connection, (ledger_no, "batch", batch_no), now, self._worker, self._lease_s
            )
            await work_store.add_cause(connection, ledger_no, "batch", [batch_no])
            await work_store.add_cause(connection, ledger_no, "cycle", cycles.numbers.values())
        return batch_no, kept, cycles

    async def _join(
        self, connection: "Connection", ledger_no: int, wanted: dict[str, int], now: int
    ) -> Cycles:
        cycles = Cycles({}, {})
        for currency in sorted(wanted):
            row = await self._open_cycle(connection, ledger_no, currency, wanted[currency], now)
            cycles.numbers[currency] = row[0]
            cycles.names[row[0]] = orders.cycle_id(ledger_no, *row)
        return cycles

    async def _open_cycle(
        self, connection: "Connection", ledger_no: int, currency: str, exponent: int, now: int
    ) -> tuple[int, int]:
        """The cycle that is open for a currency, opened now if it is not there, kept from being closed."""
        cut_offs = await participant_store.read_cut_offs(connection, ledger_no, currency)
        moment = to_datetime(now)
        while True:
            dates = schedule.next_dates(moment, cut_offs)
            joined = await cycle_store.join_cycle(connection, ledger_no, currency, dates.cut_off_at)
            if joined is None:
                await cycle_store.open_cycle(connection, ledger_no, currency, exponent, dates, now)
                joined = await cycle_store.join_cycle(connection, ledger_no, currency, dates.cut_off_at)
                assert joined is not None, "it was opened or is there"
                due = to_micros(dates.cut_off_at)
                await work_store.add_work(connection, (ledger_no, "cycle", joined.cycle_no), due)
            if not joined.closed:
                return joined.cycle_no, joined.opened_at
            # Somebody's clock is ahead of ours: what it closed stays closed.
            moment = dates.cut_off_at

    # --- holding ---

    async def pay(self, ledger_no: int, found: Sequence[Order]) -> dict[int, str | None]:
        """Hold, or in gross mode pay, orders of one ledger; the ledger's code for each, None if it took it.

        Safe to repeat. An order whose payee's ledger refuses is released again on its own.
        """
        home = await self.ledger_id(ledger_no)
        records = await book_all(self._ledgers, home, [orders.payment(each) for each in found])
        self._reached("paid here")
        codes = {each.order_no: record.code for each, record in zip(found, records, strict=True)}
        here = {each.order_no: record for each, record in zip(found, records, strict=True)}
        taken = [each for each in found if each.peer_ledger_no is not None and codes[each.order_no] is None]
        for peer_no in sorted({each.peer_ledger_no or 0 for each in taken}):
            codes |= await self._pay_peer(
                peer_no, [each for each in taken if each.peer_ledger_no == peer_no], here
            )
        return codes

    async def _pay_peer(
        self, peer_no: int, found: Sequence[Order], here: dict[int, Record]
    ) -> dict[int, str | None]:
        peer_id, home_no = await self.ledger_id(peer_no), found[0].ledger_no
        records = await book_all(self._ledgers, peer_id, [orders.peer_payment(each) for each in found])
        codes = {each.order_no: record.code for each, record in zip(found, records, strict=True)}
        refused = [each for each in found if codes[each.order_no] is not None]
        home = await self.ledger_id(home_no)
        releases = [orders.release(_held(each, here[each.order_no], home_no)) for each in refused]
        await resolve_all(self._ledgers, home, releases, self._clock)
        return codes

    async def resume(self, ledger_no: int, cycle_no: int | None, batch_no: int = 0) -> None:
        """Hold what was kept and not held yet, of a cycle or of a batch, whoever was killed at it."""
        while True:
            async with acquired(self._pool) as connection:
                numbers = await order_store.read_undecided(connection, ledger_no, cycle_no, batch_no, PAGE)
                found = await order_store.read_orders(connection, ledger_no, numbers)
            if not found:
                return
            await self.pay(ledger_no, found)

    async def post_gross(self, ledger_no: int, batch_no: int) -> None:
        """Post the gross orders of a batch that go to other ledgers; the others were paid at once.

        Raises order_blocked.
        """
        await self._post_gross_here(ledger_no, batch_no)
        self._reached("gross posted here")
        after = 0
        while True:
            async with acquired(self._pool) as connection:
                page = await order_store.read_peer_page(connection, ledger_no, None, batch_no, after, PAGE)
            for peer_no in sorted({each.peer_ledger_no for each in page}):
                mine = [each for each in page if each.peer_ledger_no == peer_no and each.ended is None]
                posts = [orders.posting(each.held) for each in mine if each.held is not None]
                await resolve_all(self._ledgers, await self.ledger_id(peer_no), posts, self._clock)
            if len(page) < PAGE:
                return
            after = page[-1].order_no

    async def _post_gross_here(self, ledger_no: int, batch_no: int) -> None:
        home, after = await self.ledger_id(ledger_no), 0
        while True:
            async with acquired(self._pool) as connection:
                page = await order_store.read_unposted(connection, ledger_no, batch_no, after, PAGE)
            posts = [orders.posting(held) for _, held, ended in page if ended is None]
            await resolve_all(self._ledgers, home, posts, self._clock)
            if len(page) < PAGE:
                return
            after = page[-1][0]

    async def _post_at_once(self, ledger_no: int, found: Sequence[Order]) -> None:
        """Gross orders to other ledgers, of this batch or, where it is a repetition, of an earlier one."""
        gross = [each for each in found if each.cycle_no is None and each.peer_ledger_no is not None]
        for batch_no in sorted({each.batch_no for each in gross}):
            await self.post_gross(ledger_no, batch_no)

    async def _finish(self, ledger_no: int, batch_no: int) -> None:
        async with acquired(self._pool) as connection:
            await work_store.finish(connection, (ledger_no, "batch", batch_no))
            if traced.cause() is not None:
                await work_store.forget_causes(connection, (ledger_no, "batch", batch_no))


def _held(order: Order, record: Record, ledger_no: int) -> Held:
    key = orders.order_key(order.ledger_no, order.order_no)
    return Held(key, record.transaction_id(ledger_no))


def _in_cycle(new: NewOrder, cycles: Cycles) -> NewOrder:
    return new if new.cycle_no is None else new._replace(cycle_no=cycles.numbers[new.currency])


async def _known(
    connection: "Connection", ledger_no: int, rows: Sequence[NewOrder]
) -> dict[int, Order | Outcome]:
    """What stands in the way of orders that were not kept: themselves, or others of their name or UETR."""
    before = await order_store.find_by_end_to_end(connection, ledger_no, [row.name for row in rows])
    kept: dict[int, Order | Outcome] = {}
    for row in rows:
        known = before.get(row.name)
        if known is None:
            kept[row.place] = Outcome(None, None, "uetr_duplicate", "uetr")
        elif row.repeats(known):
            same = row._replace(cycle_no=known["cycle_no"])
            kept[row.place] = same.order(
                ledger_no, known["batch_no"], known["order_no"], to_micros(known["accepted_at"])
            )
        else:
            kept[row.place] = Outcome(None, None, "order_duplicate", "end_to_end_id")
    return kept


async def _name_others(
    connection: "Connection", ledger_no: int, kept: dict[int, Order | Outcome], cycles: Cycles
) -> None:
    """Ids of the cycles that repeated orders joined when they came first."""
    joined = {each.cycle_no for each in kept.values() if isinstance(each, Order) and each.cycle_no}
    opened = await cycle_store.read_openings(connection, ledger_no, sorted(joined - cycles.names.keys()))
    cycles.names.update({number: orders.cycle_id(ledger_no, number, at) for number, at in opened})


def _outcome(kept: Order | Outcome, codes: dict[int, str | None], cycles: Cycles) -> Outcome:
    if isinstance(kept, Outcome):
        return kept
    cycle_id = None if kept.cycle_no is None else cycles.names[kept.cycle_no]
    return Outcome(kept.order_id, cycle_id, codes[kept.order_no])
