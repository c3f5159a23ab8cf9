"""The rules against the oracle: commands of every kind, one at a time and in groups, compared after each."""

from collections import defaultdict
from decimal import Decimal
from random import Random

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from finflow.ledger import commands as c
from finflow.ledger import model
from finflow.ledger.book import Book, Record, Target
from oracles.draws import Draws
from oracles.ledger import Ledger

RANDOM = st.randoms(use_true_random=False)
KINDS = ["post", "hold", "capture", "void", "expire", "reverse", "open", "change", "declare"]
START = 1_767_225_600_000_000


class LedgerMachine(RuleBasedStateMachine):
    """The book under test and the oracle side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(7)
        self.oracle = Ledger()
        self.at = START

    @initialize(random=RANDOM)
    def open_accounts(self, random: Random) -> None:
        self.run(c.DeclareAsset("PTS", 6))
        for currency in ("SGD", "SGD", "SGD", "JPY", "JPY", "BHD", "BHD"):
            kind = random.choice(["asset", "liability", "equity"])
            limit = random.choice(["0", "100", None, None])
            self.run(c.OpenAccount(currency, kind, overdraft_limit=limit))

    @rule(random=RANDOM, kind=st.sampled_from(KINDS), times=st.integers(1, 4))
    def command(self, random: Random, kind: str, times: int) -> None:
        for _ in range(times):
            self.run(getattr(Draws(random, self.oracle), kind)())

    @rule(random=RANDOM, times=st.integers(5, 30))
    def traffic(self, random: Random, times: int) -> None:
        for _ in range(times):
            self.run(Draws(random, self.oracle).any())

    @rule(random=RANDOM, size=st.integers(1, 4))
    def group(self, random: Random, size: int) -> None:
        """All or nothing: the oracle decides a group on a copy of itself, kept if all is well."""
        draws = Draws(random, self.oracle, wild=0.05)
        commands = [draws.transfer() for _ in range(size)]
        before = dump(self.book)
        requests = [c.Request(f"g{self.book.seq + i}", command, "test") for i, command in enumerate(commands)]
        records = model.decide_group(self.book, requests, self.at)
        trial = clone(self.oracle)
        expected = [
            trial.decide(record.command, self.at, name_of(record, self.book.ledger_no)) for record in records
        ]
        if any(expected):
            expected = [code or "group_refused" for code in expected]
            self.oracle.seq += size
            assert dump(self.book) == before
            assert not any(record.entries or record.account for record in records)
        else:
            self.oracle = trial
        assert [record.code for record in records] == expected
        for record in records:
            self.learn(record)

    @rule(seconds=st.sampled_from([1, 2, 61]))
    def wait(self, seconds: int) -> None:
        self.at += seconds * 1_000_000

    def run(self, command: c.Command) -> None:
        self.at += 1
        before = dump(self.book)
        [record] = model.decide(self.book, [c.Request(f"k{self.book.seq}", command, "test")], self.at)
        code = self.oracle.decide(command, self.at, name_of(record, self.book.ledger_no))
        assert record.code == code, f"{command}: {record.code} is not {code}"
        assert code is None or dump(self.book) == before, "a refusal changed something"
        assert not (code and (record.entries or record.account))
        self.learn(record)

    def learn(self, record: Record) -> None:
        """Put an accepted transaction where the loader would put it, read from its entries."""
        if record.code is not None or not record.entries:
            return
        lines = []
        for entry in record.entries:
            minor = entry.held if record.kind == "hold" else entry.amount
            lines.append((entry.account_no, 1 if minor > 0 else -1, abs(minor)))
        number = self.book.ledger_no
        self.book.targets[record.seq] = Target(
            record.seq, record.transaction_id(number), record.kind, tuple(lines), record.expires_at, None
        )

    @invariant()
    def totals_agree(self) -> None:
        assert set(self.book.accounts) == set(self.oracle.accounts)
        assert self.book.seq == self.oracle.seq
        for account_id, account in self.book.accounts.items():
            known = self.oracle.accounts[account_id]
            minor = tuple(int(total.scaleb(known.exponent)) for total in known.totals())
            totals = (
                account.posted_debits,
                account.posted_credits,
                account.pending_debits,
                account.pending_credits,
            )
            assert totals == minor
            assert account.version == len(known.lines)
            assert (account.status, account.metadata) == (known.status, known.metadata)

    @invariant()
    def sums_are_zero(self) -> None:
        posted: dict[str, int] = defaultdict(int)
        held: dict[str, int] = defaultdict(int)
        for account in self.book.accounts.values():
            posted[account.currency] += account.posted_debits - account.posted_credits
            held[account.currency] += account.pending_debits - account.pending_credits
        assert not any(posted.values())
        assert not any(held.values())

    @invariant()
    def limits_hold(self) -> None:
        for account in self.book.accounts.values():
            assert account.floor is None or account.available >= account.floor
            assert account.ceiling is None or account.expected <= account.ceiling

    @invariant()
    def holds_are_open_pending(self) -> None:
        open_holds: dict[tuple[str, int], Decimal] = defaultdict(Decimal)
        for transaction in self.oracle.transactions.values():
            if transaction.kind == "hold" and transaction.resolved_by is None:
                for account, side, amount in transaction.lines:
                    open_holds[account.account_id, side] += amount
        for account_id, account in self.book.accounts.items():
            exponent = account.exponent
            assert account.pending_debits == open_holds[account_id, 1].scaleb(exponent)
            assert account.pending_credits == open_holds[account_id, -1].scaleb(exponent)


def name_of(record: Record, ledger_no: int) -> str:
    opened = record.account is not None and isinstance(record.command, c.OpenAccount)
    return record.account.account_id if opened and record.account else record.transaction_id(ledger_no)


def dump(book: Book) -> bytes:
    """Everything that a refusal must leave as it was; `seq` and the booking time do move."""
    return msgspec.json.encode(
        [book.accounts, sorted(book.targets), [t.resolved_by for t in book.targets.values()], book.references,
         book.assets, book.account_no]
    )  # fmt: skip


def clone(oracle: Ledger) -> Ledger:
    import copy

    return copy.deepcopy(oracle)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
