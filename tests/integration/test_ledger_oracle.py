"""The whole ledger, service and PostgreSQL, against the oracle: outcomes, replays and history."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from finflow.ledger import commands as c
from finflow.ledger import writer
from finflow.ledger.book import Record
from finflow.ledger.lists import Span, TransactionFilter
from oracles.draws import Draws
from oracles.ledger import EPOCH, Account, Ledger
from oracles.service import ENTRY_SUMS, Desk, audit, desk

STATUS = {"capture": "posted", "void": "voided", "expire": "expired", "reverse": "reversed", None: "posted"}
COMMANDS = 420
FIRST = datetime(1, 1, 2, tzinfo=UTC)


class Run:
    """A ledger and its oracle after the same random commands, in batches of random sizes."""

    def __init__(self, one: Desk, random: Random) -> None:
        self.one = one
        self.random = random
        self.oracle = Ledger()
        self.draws = Draws(random, self.oracle, huge_holds=False)
        self.sent: list[tuple[c.Request, Record]] = []

    async def start(self) -> None:
        await self.send([c.DeclareAsset("PTS", 6)])
        kinds = ["asset", "liability", "equity", "income", "expense"]
        limits = ["0", "100", None, None]
        for currency in ("SGD", "SGD", "SGD", "SGD", "JPY", "JPY", "BHD", "BHD", "PTS", "PTS"):
            await self.send([c.OpenAccount(currency, self.random.choice(kinds), self.random.choice(limits))])  # type: ignore[arg-type]

    async def play(self, count: int) -> None:
        while len(self.sent) < count:
            size = self.random.choice([1, 1, 2, 5, 30])
            await self.send([self.draws.any() for _ in range(size)])
            self.one.clock.at += self.random.choice([0, 1, 1_000_000, 7_000_000])

    async def send(self, commands: list[c.Command]) -> None:
        requests = [self.one.request(command) for command in commands]
        records = await self.one.service.submit(self.one.ledger_id, requests)
        for request, record in zip(requests, records, strict=True):
            opened = isinstance(record.command, c.OpenAccount) and record.account is not None
            name = record.account.account_id if opened and record.account else record.transaction_id(1)
            code = self.oracle.decide(request.command, record.recorded_at, name)
            assert record.code == code, f"{request.command}: {record.code} is not {code}"
            assert record.seq == self.oracle.seq
            self.sent.append((request, record))


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_ledger_agrees_with_the_oracle(
    database_url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A book that is soon too large is read anew now and then.
    monkeypatch.setattr(writer, "MAX_BATCH", 7 * seed)
    async with desk(database_url) as one:
        run = Run(one, Random(seed))  # noqa: S311 - a test that can be repeated
        await run.start()
        await run.play(COMMANDS)
        await agree_on_now(run)
        await agree_on_history(run)
        await agree_on_transactions(run)
        await agree_on_replays(run)
        await agree_on_the_journal(run)


def minor(value: Decimal, account: Account) -> Decimal:
    return (
        value.quantize(Decimal(1).scaleb(-account.exponent))
        if account.exponent
        else value.quantize(Decimal(1))
    )


async def agree_on_now(run: Run) -> None:
    for account in run.oracle.accounts.values():
        shown = await run.one.service.balance(account.account_id)
        totals = (shown.posted_debits, shown.posted_credits, shown.pending_debits, shown.pending_credits)
        assert totals == tuple(f"{minor(total, account):f}" for total in account.totals())
        assert Decimal(shown.balance) == account.balance
        assert Decimal(shown.available) == account.available
        assert shown.version == len(account.lines)
        assert (await run.one.service.account(account.account_id)).status == account.status
    trial = await run.one.service.trial_balance(run.one.ledger_id)
    assert trial.balanced
    assert trial.seq == run.oracle.seq
    await audit(await run.one.rows(ENTRY_SUMS))


async def agree_on_history(run: Run) -> None:
    """Balances by seq, by booking time and by value date, at and beside every moment that there was."""
    service = run.one.service
    booked = {record.seq: record.recorded_at for _, record in run.sent}
    for account in list(run.oracle.accounts.values())[:8]:
        for seq in run.random.sample(range(run.oracle.seq + 2), 25):
            known = [line for line in account.lines if line.seq <= seq]
            shown = await service.balance(account.account_id, at_seq=seq)
            assert Decimal(shown.balance) == account.sign * sum(line.posted for line in known)
            assert (shown.version, shown.seq) == (len(known), known[-1].seq if known else 0)
        for at in run.random.sample(sorted(set(booked.values())), 12):
            for moment in (at - 1, at):
                shown = await service.balance(account.account_id, as_of=moment)
                known = [line for line in account.lines if booked[line.seq] <= moment]
                assert Decimal(shown.balance) == account.sign * sum(line.posted for line in known)
        dates = {line.effective_at for line in account.lines}
        for date in run.random.sample(sorted(dates), min(15, len(dates))):
            for moment in (max(date, FIRST) - timedelta(microseconds=1), date):
                shown = await service.balance(
                    account.account_id, effective_at=(moment - EPOCH) // timedelta(microseconds=1)
                )
                known = [line for line in account.lines if line.effective_at <= moment]
                assert Decimal(shown.balance) == account.sign * sum(line.posted for line in known)


async def agree_on_transactions(run: Run) -> None:
    for transaction in run.oracle.transactions.values():
        shown = await run.one.service.transaction(transaction.transaction_id)
        expected = STATUS[transaction.resolved_by]
        if transaction.resolved_by is None and transaction.kind in ("hold", "void", "expire"):
            expected = {"hold": "pending", "void": "voided", "expire": "expired"}[transaction.kind]
        assert (shown.status, shown.seq) == (expected, transaction.seq)
        if transaction.kind not in ("void", "expire"):
            lines = [
                (line.account_id, 1 if line.direction == "debit" else -1, Decimal(line.amount))
                for line in shown.entries
            ]
            assert lines == [
                (account.account_id, side, amount) for account, side, amount in transaction.lines
            ]
    pages: list[str] = []
    after: int | None = 0
    while after is not None:
        span = Span(after, limit=50)
        page, after = await run.one.service.transactions(run.one.ledger_id, TransactionFilter(), span)
        pages += [shown.transaction_id for shown in page]
    assert pages == list(run.oracle.transactions)


async def agree_on_replays(run: Run) -> None:
    """Every request again, in other lists: the same answers, nothing new; another payload: a conflict."""
    before = await run.one.value("select count(*) from journal")
    for start in range(0, len(run.sent), 60):
        part = run.sent[start : start + 60]
        again = await run.one.service.submit(run.one.ledger_id, [request for request, _ in part])
        for (request, first), second in zip(part, again, strict=True):
            same = ("seq", "code", "param", "kind", "recorded_at", "target", "expires_at", "entries")
            assert second.replayed
            assert {name: getattr(second, name) for name in same} == {
                name: getattr(first, name) for name in same
            }
            assert second.transaction_id(1) == first.transaction_id(1), request
    others = [c.Request(request.key, c.DeclareAsset("OTHER", 9), "test") for request, _ in run.sent[:40]]
    conflicts = await run.one.service.submit(run.one.ledger_id, others)
    assert {record.code for record in conflicts} == {"idempotency_conflict"}
    assert await run.one.value("select count(*) from journal") == before


async def agree_on_the_journal(run: Run) -> None:
    """The journal gives every command back as it was received, refused or not, in order."""
    records: list[Record] = []
    while page := await run.one.service.journal(run.one.ledger_id, len(records), 100):
        records += page
    assert [record.seq for record in records] == list(range(1, len(run.sent) + 1))
    for (request, answered), record in zip(run.sent, records, strict=True):
        assert (record.key, record.code, record.param) == (request.key, answered.code, answered.param)
        if record.code is not None or not isinstance(record.command, c.PostTransaction):
            assert record.command == request.command
    fresh, again = Ledger(), Ledger()
    for record, (request, _) in zip(records, run.sent, strict=True):
        name = f"{record.seq}"
        if isinstance(record.command, c.OpenAccount) and record.code is None and record.account is not None:
            name = record.account.account_id
        elif record.code is None:
            name = record.transaction_id(1)
        code = fresh.decide(record.command, record.recorded_at, name)
        assert code == again.decide(request.command, record.recorded_at, name) == record.code
