"""Messages as they come from outside: checked whole, kept, and then done in parts that can be repeated.

Payments become orders, in batches under keys that are made from the message; a bank's report becomes lines; a
rail's answer goes the way of those that come in files. A message is kept before its first order, and each
batch is accepted under its own key, so whoever is killed in the middle leaves a message that, sent again,
finishes itself. Files are read and checked in a thread; the loop serves others meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeVar

import msgspec

from finflow.db.pool import acquired
from finflow.kernel.clock import Clock, to_datetime
from finflow.kernel.errors import FinFlowError
from finflow.settlement import cycle_store, order_reads, participant_store, schedule
from finflow.settlement.acceptance import Acceptance, Outcome
from finflow.settlement.cycle_store import KeptMessage
from finflow.settlement.database import Bound, transaction
from finflow.settlement.incoming import Payment, Route, draft, payments_of
from finflow.settlement.iso20022 import rules
from finflow.settlement.iso20022.streams import Event, Opened
from finflow.settlement.iso20022.summary import events_in
from finflow.settlement.matching import Line
from finflow.settlement.orders import MAX_ORDERS, OrderDraft, message_key
from finflow.settlement.reconciliation import Reconciler
from finflow.settlement.reported import lines_of
from finflow.settlement.submission import Submitter

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

AT_ONCE: Final = 2
WAITING: Final = 64
MAX_REFUSALS: Final = 1_000
_PAYMENTS: Final = ("pain.001", "pacs.008")
_REPORTS: Final = ("camt.053", "camt.054")


class Spooled(NamedTuple):
    """A message as it lies in a file: the file belongs to whoever has this, who closes it."""

    file: BinaryIO
    digest: bytes


class Refusal(msgspec.Struct, frozen=True):
    """A payment that was not taken: its place in the message from 0, and why."""

    place: int
    end_to_end_id: str
    order_id: str | None
    code: str
    param: str | None


class MessageView(msgspec.Struct, frozen=True):
    """What became of a message: how many orders, lines or answers it brought; the first refusals in full."""

    ledger_id: str
    kind: str
    sender: str
    message_id: str
    digest: str
    orders: int
    accepted: int
    refused: int
    lines: int
    answers: int
    refusals: list[Refusal]


class _Read(NamedTuple):
    """A message that was read to its end without a fault."""

    kind: str
    message_id: str
    payments: list[Payment]
    lines: list[Line]


class _Letter(NamedTuple):
    """A message on its way: where it came in, and what it holds."""

    ledger_no: int
    sender: str
    read: _Read
    content: Spooled

    @property
    def name(self) -> tuple[int, str, str, str]:
        return self.ledger_no, self.sender, self.read.kind, self.read.message_id


class Inbox:
    """Takes messages for any ledger."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        acceptance: Acceptance,
        submitter: Submitter,
        reconciler: Reconciler,
        clock: Clock,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._acceptance = acceptance
        self._submitter = submitter
        self._reconciler = reconciler
        self._clock = clock
        self._reached = reached
        self._bound = Bound(AT_ONCE, WAITING)
        self._running: dict[tuple[int, str, str | None, bytes], asyncio.Task[MessageView]] = {}

    async def take(
        self, ledger_id: str, ledger_no: int, sender: str, rail: str | None, content: Spooled
    ) -> MessageView:
        """Take a message; the same again answers the same. Closes its file.

        Whoever asks and goes away does not stop it; who asks again while it is done waits for the same.
        Raises the reader's codes, message_duplicate, uetr_duplicate, nostro_unknown, those of orders for
        payments that could never be taken (`param` has their place), and overloaded.
        """
        key = (ledger_no, sender, rail, content.digest)
        task = self._running.get(key)
        if task is None:
            # It is a part of this request's trace, which it may outlive: what comes after that is in none.
            task = asyncio.create_task(self._take(ledger_id, ledger_no, sender, rail, content))
            self._running[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        else:
            content.file.close()
        return await asyncio.shield(task)

    def _forget(self, key: tuple[int, str, str | None, bytes], done: "asyncio.Task[MessageView]") -> None:
        self._running.pop(key, None)
        # Nobody may be left to hear it.
        if not done.cancelled():
            done.exception()

    async def _take(
        self, ledger_id: str, ledger_no: int, sender: str, rail: str | None, content: Spooled
    ) -> MessageView:
        with content.file:
            async with self._bound.slot():
                read = await asyncio.to_thread(_read, content.file, self._clock())
                letter = _Letter(ledger_no, sender, read, content)
                if read.kind in _PAYMENTS:
                    found = await self._pay(letter, rail)
                    return _view(ledger_id, letter, *found)
                if read.kind in _REPORTS:
                    await self._report(letter)
                    return _view(ledger_id, letter, [], [])
                heard = await self._submitter.take(sender, await _whole(content), ledger_no)
                return _view(ledger_id, letter, [], [], len(heard.named))

    async def _kept_before(self, letter: _Letter) -> int | None:
        """The number of the same message, if it came before. Raises message_duplicate for another one."""
        async with acquired(self._pool) as connection:
            found = await cycle_store.find_message(connection, *letter.name)
        if found is None:
            return None
        number, digest = found
        if digest != letter.content.digest:
            raise FinFlowError("message_duplicate", f"{letter.read.message_id!r} of {letter.sender!r}")
        return number

    async def _keep(self, letter: _Letter) -> int:
        """Keep a message whole under its name; its number, now or from before."""
        body = await _whole(letter.content)
        message = KeptMessage(
            "in", letter.read.kind, letter.sender, letter.read.message_id, letter.content.digest, body
        )
        async with transaction(self._pool) as connection:
            number = await cycle_store.add_message(connection, letter.ledger_no, message, self._clock())
        self._reached("message kept")
        if number is None:
            number = await self._kept_before(letter)
            assert number is not None, "it was not added because it is there"
        return number

    # --- payments ---

    async def _pay(self, letter: _Letter, rail: str | None) -> tuple[list[OrderDraft], list[Outcome]]:
        number = await self._kept_before(letter)
        drafts = await self._drafts(letter, rail)
        await self._check(letter, drafts, number)
        if number is None:
            number = await self._keep(letter)
        outcomes: list[Outcome] = []
        for part, chunk in enumerate(_parts(drafts)):
            key = f"{message_key(number)}{part}"
            outcomes += await self._acceptance.accept(letter.ledger_no, chunk, key)
            self._reached("message's batch taken")
        return drafts, outcomes

    async def _drafts(self, letter: _Letter, rail: str | None) -> list[OrderDraft]:
        named = {letter.sender} | ({rail} if rail else set())
        known = await self._acceptance.participants(letter.ledger_no, named)
        if letter.sender not in known:
            raise FinFlowError("participant_unknown", f"{letter.sender[:40]!r}", "sender")
        if rail is not None and (rail not in known or known[rail].kind != "rail"):
            raise FinFlowError("participant_unknown", f"no rail {rail[:40]!r}", "rail")
        kinds = {name: each.kind for name, each in known.items()}
        message = "/".join((letter.sender, letter.read.kind, letter.read.message_id))
        route = Route(letter.sender, kinds, rail, message, letter.ledger_no)

        def made() -> list[OrderDraft]:
            return [draft(each, route, place) for place, each in enumerate(letter.read.payments)]

        return await asyncio.to_thread(made)

    async def _check(self, letter: _Letter, drafts: Sequence[OrderDraft], number: int | None) -> None:
        """Everything that no later moment makes right, before anything is kept. Raises what is wrong."""
        await self._check_days(letter)
        names: set[str] = set()
        for place, each in enumerate(drafts):
            if each.end_to_end_id in names:
                raise FinFlowError("order_duplicate", "twice in this message", f"[{place}].EndToEndId")
            names.add(each.end_to_end_id)
        await self._check_uetrs(letter, drafts, number)
        place = -1
        for chunk in _parts(drafts):
            for outcome in await self._acceptance.check(letter.ledger_no, chunk):
                place += 1
                if outcome.code is not None:
                    raise FinFlowError(outcome.code, None, f"[{place}].{outcome.param or ''}".rstrip("."))

    async def _check_days(self, letter: _Letter) -> None:
        """A payment for a day behind the open cycle's would be paid too early."""
        latest: dict[str, Any] = {}
        for place, each in enumerate(letter.read.payments):
            currency = each.amount.currency
            if currency not in latest:
                async with acquired(self._pool) as connection:
                    cut_offs = await participant_store.read_cut_offs(connection, letter.ledger_no, currency)
                latest[currency] = schedule.next_dates(to_datetime(self._clock()), cut_offs).value_date
            if each.day is not None and each.day > latest[currency]:
                detail = f"it is for {each.day}, and the open cycle settles on {latest[currency]}"
                raise FinFlowError("order_malformed", detail, f"[{place}].day")

    async def _check_uetrs(self, letter: _Letter, drafts: Sequence[OrderDraft], number: int | None) -> None:
        given = [each.uetr for each in drafts if each.uetr is not None]
        if len(set(given)) < len(given):
            raise FinFlowError("uetr_duplicate", "a UETR comes twice in this message", "UETR")
        own = None if number is None else message_key(number)
        for chunk in _parts(given):
            async with acquired(self._pool) as connection:
                known = await order_reads.read_keys_by_uetr(connection, letter.ledger_no, chunk)
            for uetr, key in known.items():
                if own is None or not key.startswith(own):
                    raise FinFlowError("uetr_duplicate", f"{uetr} came before", "UETR")

    # --- reports ---

    async def _report(self, letter: _Letter) -> None:
        nostros = {
            (each.account, each.currency): each.nostro_no
            for each in await self._reconciler.nostros(letter.ledger_no)
            if each.participant == letter.sender
        }
        lines: list[tuple[int, Line]] = []
        for each in letter.read.lines:
            nostro_no = nostros.get((each.account, each.currency))
            if nostro_no is None:
                raise FinFlowError("nostro_unknown", f"{each.account[:40]!r} in {each.currency}", "Acct")
            lines.append((nostro_no, each))
        if len({each.id for _, each in lines}) < len(lines):
            raise FinFlowError("message_inconsistent", "two reports of it have one id", "Id")
        number = await self._kept_before(letter)
        if number is None:
            number = await self._keep(letter)
        for chunk in _parts(lines):
            await self._reconciler.report(letter.ledger_no, number, chunk)


def _read(file: BinaryIO, now: int) -> _Read:
    """A whole message, in the thread of the caller."""
    file.seek(0)
    events: Iterator[Event] = rules.checked(events_in(file))
    opened = next(events)
    assert isinstance(opened, Opened), "a message begins with its header"
    kind, header = opened.name[:8], getattr(opened.part, "header", None)
    assert header is not None, "every message has a header"
    rest = chain([opened], events)
    if kind in _PAYMENTS:
        return _Read(kind, header.message_id, list(payments_of(rest)), [])
    if kind in _REPORTS:
        return _Read(kind, header.message_id, [], list(lines_of(rest, to_datetime(now))))
    for _ in rest:
        pass
    return _Read(kind, header.message_id, [], [])


async def _whole(content: Spooled) -> bytes:
    def read() -> bytes:
        content.file.seek(0)
        return content.file.read()

    return await asyncio.to_thread(read)


def _parts(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    return (whole[start : start + MAX_ORDERS] for start in range(0, len(whole), MAX_ORDERS))


def _view(
    ledger_id: str,
    letter: _Letter,
    drafts: Sequence[OrderDraft],
    outcomes: Sequence[Outcome],
    answers: int = 0,
) -> MessageView:
    refusals = [
        Refusal(place, each.end_to_end_id, outcome.order_id, outcome.code, outcome.param)
        for place, (each, outcome) in enumerate(zip(drafts, outcomes, strict=True))
        if outcome.code is not None
    ]
    read = letter.read
    return MessageView(
        ledger_id, read.kind, letter.sender, read.message_id, letter.content.digest.hex(), len(drafts),
        len(drafts) - len(refusals), len(refusals), len(read.lines), answers, refusals[:MAX_REFUSALS],
    )  # fmt: skip
