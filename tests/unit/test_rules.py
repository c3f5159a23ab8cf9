"""Every rule of the ledger in one table, in the order in which the rules are checked.

WORLD is a small ledger; BREAKS has, for each code of PRECEDENCE, one command on it that breaks this rule
and no other; TIES has, for each two codes that stand next to each other and that one command can break
together, such a command, which must answer the first. A change of a rule shows here as one red row.
"""

# ruff: noqa: E501 - one row of the table is one line

import ast
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from finflow.kernel.clock import to_datetime
from finflow.kernel.errors import CATALOGUE
from finflow.ledger import account_rules, guards, model
from finflow.ledger import commands as c
from finflow.ledger.book import Book, Record, Target
from finflow.ledger.model import PRECEDENCE

NO_DATE = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
LONG = "x" * 501
TOO_MUCH = "93000000000000000.00"
USED, FREE = 7, 8
TIMES = 1_767_225_600_000_000


class World:
    """Accounts and transactions by short names; `do` decides one command at a second of its own."""

    def __init__(self) -> None:
        self.book = Book(1)
        self.at = TIMES
        self.ids: dict[str, str] = {"nowhere": "acc_00000000007008000000000000", "never": "txn_x"}
        self._accounts()
        self._transactions()
        for number in (USED, FREE):
            self.book.targets[-number] = Target(-number, "", "post", (), None, None)
        self.do(using(USED, to="bank")(self))

    def do(self, *commands: c.Command) -> list[Record]:
        self.at += 1_000_000
        requests = [c.Request(f"k{self.book.seq}-{i}", command, "test") for i, command in enumerate(commands)]
        if len(commands) > 1:
            return model.decide_group(self.book, requests, self.at)
        return list(model.decide(self.book, requests, self.at))

    def _accounts(self) -> None:
        for name, currency, overdraft, upper in (
            ("a", "SGD", "0", None), ("b", "SGD", "0", None), ("bank", "SGD", None, None), ("old", "SGD", "0", None),
            ("ice", "SGD", "0", None), ("full", "SGD", None, "10"), ("yen", "JPY", "0", None),
            ("yenbank", "JPY", None, None), ("huge", "SGD", None, None), ("deep", "SGD", None, None),
        ):  # fmt: skip
            [record] = self.do(c.OpenAccount(currency, "asset", overdraft, upper, external_reference=name))
            assert record.account is not None
            self.ids[name] = record.account.account_id
        self.do(c.DeclareAsset("PTS", 6))

    def _transactions(self) -> None:
        self.post("funds", "bank", "a", "100")
        self.post("frozen_funds", "bank", "ice", "20")
        self.post("most", "deep", "huge", "92233720368547758.00")
        self.post("undone", "bank", "a", "1")
        self.remember("undoing", c.ReverseTransaction(self.ids["undone"]))
        for name in ("held", "captured", "voided", "expired", "on_ice", "late"):
            to = "ice" if name == "on_ice" else "b"
            timeout_s = 5 if name in ("expired", "late") else None
            self.remember(
                name, c.PostTransaction(lines(self, "bank", to, "10"), pending=True, timeout_s=timeout_s)
            )
        three = [
            *lines(self, "bank", "a", "2"),
            *lines(self, "bank", "b", "3")[:1],
            self.line("b", "debit", "3"),
        ]
        self.remember("wide", c.PostTransaction(three, pending=True))
        self.remember("wide_ice", c.PostTransaction([*lines(self, "bank", "ice", "2"), *three], pending=True))
        self.remember("capture", c.PostPending(self.ids["captured"]))
        self.remember("void", c.VoidPending(self.ids["voided"]))
        self.at += 10_000_000
        self.remember("expiry", c.ExpirePending(self.ids["expired"]))
        self.do(c.ChangeAccount(self.ids["ice"], status="frozen"))
        self.do(c.ChangeAccount(self.ids["old"], status="closed"))

    def post(self, name: str, source: str, to: str, amount: str) -> None:
        self.remember(name, c.PostTransaction(lines(self, source, to, amount)))

    def remember(self, name: str, command: c.Command) -> None:
        """Decide, and put the transaction where the loader would put it."""
        [record] = self.do(command)
        assert record.code is None, f"{name}: {record.code}"
        minor = [e.held if record.kind == "hold" else e.amount for e in record.entries]
        legs = tuple(
            (e.account_no, 1 if m > 0 else -1, abs(m)) for e, m in zip(record.entries, minor, strict=True)
        )
        target = Target(record.seq, record.transaction_id(1), record.kind, legs, record.expires_at, None)
        self.book.targets[record.seq] = target
        self.ids[name] = target.transaction_id

    def line(
        self, account: str, direction: c.Direction, amount: str, currency: str | None = None
    ) -> c.EntryLine:
        held = self.book.accounts.get(self.ids[account])
        return c.EntryLine(
            self.ids[account], direction, amount, currency or (held.currency if held else "SGD")
        )


def lines(world: World, source: str, to: str, amount: str, currency: str | None = None) -> list[c.EntryLine]:
    """Money from one account of the world to another."""
    return [world.line(source, "credit", amount, currency), world.line(to, "debit", amount, currency)]


Build = Callable[[World], c.Command | list[c.Command]]


def move(source: str, to: str, amount: str, currency: str | None = None) -> Build:
    return lambda w: c.PostTransaction(lines(w, source, to, amount, currency))


def two(first: tuple[str, str, str], second: tuple[str, str, str]) -> Build:
    """A transaction of two movements, which may break two rules in two lines."""
    return lambda w: c.PostTransaction([*lines(w, *first), *lines(w, *second)])


def capture(name: str, amount: str | None = None, description: str | None = None) -> Build:
    return lambda w: c.PostPending(w.ids[name], amount, description)


def hold(name: str, timeout_s: int) -> Build:
    return lambda w: c.PostTransaction(lines(w, "bank", name, "1"), pending=True, timeout_s=timeout_s)


def using(number: int, to: str, left_s: int = 1, **fields: object) -> Build:
    """A transaction that uses a quote up, `left_s` seconds before the quote's end."""
    return lambda w: c.PostTransaction(
        lines(w, "bank", to, "1"),
        quote=c.QuoteUse(number, to_datetime(w.at + (1 + left_s) * 1_000_000)),
        **fields,  # type: ignore[arg-type]
    )


def change(name: str, **changes: object) -> Build:
    return lambda w: c.ChangeAccount(w.ids[name], **changes)  # type: ignore[arg-type]


# fmt: off
# code, where in the command, the command that breaks this rule alone
BREAKS: list[tuple[str, str | None, Build]] = [
    ("too_few_entries", "entries", lambda w: c.PostTransaction([w.line("a", "debit", "1")])),
    ("too_many_entries", "entries", lambda w: c.PostTransaction(lines(w, "bank", "a", "0.01") * 501)),
    ("field_too_long", "description", lambda w: c.PostTransaction(lines(w, "bank", "a", "1"), description=LONG)),
    ("text_malformed", "reference", lambda w: c.PostTransaction(lines(w, "bank", "a", "1"), reference="a\0b")),
    ("value_date_out_of_range", "effective_at", lambda w: c.PostTransaction(lines(w, "bank", "a", "1"), effective_at=NO_DATE)),
    ("timeout_out_of_range", "timeout_s", hold("a", timeout_s=0)),
    ("currency_unknown", "currency", lambda w: c.OpenAccount("XXX", "asset")),
    ("asset_conflict", "code", lambda w: c.DeclareAsset("SGD", 2)),
    ("external_reference_taken", "external_reference", lambda w: c.OpenAccount("SGD", "asset", external_reference="a")),
    ("quote_used", "quote_id", using(USED, to="a")),
    ("quote_expired", "quote_id", using(FREE, to="a", left_s=0)),
    ("transaction_unknown", "transaction_id", lambda w: c.VoidPending(w.ids["never"])),
    ("not_pending", "transaction_id", capture("funds")),
    ("not_reversible", "transaction_id", lambda w: c.ReverseTransaction(w.ids["undoing"])),
    ("already_posted", "transaction_id", capture("captured")),
    ("already_voided", "transaction_id", lambda w: c.VoidPending(w.ids["voided"])),
    ("already_expired", "transaction_id", capture("late")),
    ("already_reversed", "transaction_id", lambda w: c.ReverseTransaction(w.ids["undone"])),
    ("not_expired", "transaction_id", lambda w: c.ExpirePending(w.ids["held"])),
    ("capture_needs_two_entries", "amount", capture("wide", "1")),
    ("account_unknown", "entries[1].account_id", move("bank", "nowhere", "1")),
    ("precondition_failed", "If-Match", change("a", status="frozen", if_match=["another"])),
    ("account_closed", "entries[1].account_id", move("bank", "old", "1")),
    ("account_frozen", "entries[1].account_id", move("bank", "ice", "1")),
    ("currency_mismatch", "entries[0].currency", move("bank", "a", "1", "USD")),
    ("amount_malformed", "entries[0].amount", move("bank", "a", "1e2")),
    ("amount_too_precise", "entries[0].amount", move("bank", "a", "1.001")),
    ("amount_out_of_range", "entries[0].amount", move("bank", "a", TOO_MUCH)),
    ("amount_not_positive", "entries[0].amount", move("bank", "a", "0.00")),
    ("capture_exceeds_pending", "amount", capture("held", "10.01")),
    ("unbalanced", "entries", lambda w: c.PostTransaction([w.line("bank", "credit", "1"), w.line("a", "debit", "2")])),
    ("balance_out_of_range", "entries[1]", move("bank", "huge", "1")),
    ("exceeds_available", "entries[0]", move("a", "bank", "100.01")),
    ("exceeds_limit", "entries[1]", move("bank", "full", "10.01")),
    ("limit_in_use", "upper_limit", change("a", upper_limit="99.99")),
    ("account_not_empty", "status", change("a", status="closed")),
    ("group_refused", None, lambda w: [move("bank", "a", "1")(w), move("a", "bank", "999")(w)]),
]

# the code that must win, the one that the command breaks as well, the command
TIES: list[tuple[str, str, Build]] = [
    ("too_few_entries", "field_too_long", lambda w: c.PostTransaction([], description=LONG)),
    ("too_many_entries", "field_too_long", lambda w: c.PostTransaction(lines(w, "bank", "a", "1") * 501, reference=LONG)),
    ("field_too_long", "text_malformed", lambda w: c.OpenAccount("SGD", "asset", external_reference="\0" + LONG)),
    ("text_malformed", "value_date_out_of_range", lambda w: c.PostTransaction(lines(w, "bank", "a", "1"), reference="\0", effective_at=NO_DATE)),
    ("value_date_out_of_range", "timeout_out_of_range", lambda w: c.PostTransaction(lines(w, "bank", "a", "1"), timeout_s=0, effective_at=NO_DATE)),
    ("timeout_out_of_range", "account_unknown", hold("nowhere", timeout_s=366 * 86_400 + 1)),
    ("value_date_out_of_range", "account_unknown", lambda w: c.PostTransaction(lines(w, "bank", "nowhere", "1"), effective_at=NO_DATE)),
    ("text_malformed", "currency_unknown", lambda w: c.OpenAccount("XXX", "asset", external_reference="\0")),
    ("field_too_long", "currency_unknown", lambda w: c.OpenAccount("XXX", "asset", external_reference=LONG)),
    ("value_date_out_of_range", "transaction_unknown", lambda w: c.PostPending(w.ids["never"], effective_at=NO_DATE)),
    ("currency_unknown", "external_reference_taken", lambda w: c.OpenAccount("XXX", "asset", external_reference="a")),
    ("external_reference_taken", "amount_malformed", lambda w: c.OpenAccount("SGD", "asset", "x", external_reference="a")),
    ("value_date_out_of_range", "quote_used", using(USED, to="a", effective_at=NO_DATE)),
    ("quote_used", "quote_expired", using(USED, to="a", left_s=0)),
    ("quote_expired", "account_unknown", using(FREE, to="nowhere", left_s=0)),
    ("field_too_long", "transaction_unknown", capture("never", description=LONG)),
    ("transaction_unknown", "amount_malformed", capture("never", "x")),
    ("not_pending", "amount_malformed", capture("undoing", "x")),
    ("not_reversible", "account_frozen", lambda w: c.ReverseTransaction(w.ids["on_ice"])),
    ("already_posted", "amount_malformed", capture("captured", "x")),
    ("already_voided", "not_expired", lambda w: c.ExpirePending(w.ids["voided"])),
    ("already_voided", "amount_malformed", capture("voided", "x")),
    ("already_expired", "amount_malformed", capture("late", "x")),
    ("capture_needs_two_entries", "account_frozen", capture("wide_ice", "1")),
    ("account_unknown", "account_closed", two(("bank", "old", "1"), ("bank", "nowhere", "1"))),
    ("precondition_failed", "account_closed", change("old", status="open", if_match=["another"])),
    ("account_closed", "account_frozen", two(("bank", "ice", "1"), ("bank", "old", "1"))),
    ("account_frozen", "currency_mismatch", move("bank", "ice", "1", "USD")),
    ("currency_mismatch", "amount_malformed", move("bank", "a", "x", "USD")),
    ("amount_malformed", "amount_too_precise", two(("bank", "a", "1.001"), ("bank", "a", "x"))),
    ("amount_too_precise", "amount_out_of_range", move("bank", "a", "99999999999999999999.001")),
    ("amount_too_precise", "amount_not_positive", move("bank", "a", "-1.001")),
    ("amount_out_of_range", "amount_not_positive", move("bank", "a", "-" + TOO_MUCH)),
    ("account_frozen", "capture_exceeds_pending", capture("on_ice", "11")),
    ("amount_not_positive", "unbalanced", lambda w: c.PostTransaction([w.line("bank", "credit", "0"), w.line("a", "debit", "2")])),
    ("unbalanced", "exceeds_available", lambda w: c.PostTransaction([w.line("a", "credit", "999"), w.line("b", "debit", "2")])),
    ("balance_out_of_range", "exceeds_available", move("a", "huge", "101")),
    ("exceeds_available", "exceeds_limit", two(("bank", "full", "11"), ("a", "bank", "200"))),
    ("limit_in_use", "account_not_empty", change("a", upper_limit="1", status="closed")),
    ("exceeds_available", "group_refused", lambda w: [move("bank", "a", "1")(w), move("a", "bank", "999")(w)]),
]
# fmt: on


def decide(build: Build) -> list[Record]:
    world = World()
    built = build(world)
    return world.do(*(built if isinstance(built, list) else [built]))


@pytest.mark.parametrize(("code", "param", "build"), BREAKS, ids=[row[0] for row in BREAKS])
def test_rule_answers_its_code_and_place(code: str, param: str | None, build: Build) -> None:
    records = decide(build)
    assert (records[0].code, records[0].param) == (code, param)
    assert (records[0].entries, records[0].account) == ((), None)


@pytest.mark.parametrize(("first", "second", "build"), TIES, ids=[f"{a}-before-{b}" for a, b, _ in TIES])
def test_of_two_broken_rules_the_first_answers(first: str, second: str, build: Build) -> None:
    assert PRECEDENCE.index(first) < PRECEDENCE.index(second)
    assert decide(build)[-1].code == first


def test_a_command_that_breaks_no_rule_is_accepted() -> None:
    for build in (
        move("bank", "a", "1"),
        capture("held"),
        capture("held", "10"),
        change("a", status="frozen"),
    ):
        assert decide(build)[0].code is None


def test_the_table_has_every_code_in_the_documented_order() -> None:
    assert [code for code, _, _ in BREAKS] == list(PRECEDENCE)


def test_every_code_stands_in_the_catalogue_as_a_refusal() -> None:
    for code in PRECEDENCE:
        assert CATALOGUE[code].status in (409, 412, 422), code
        assert not CATALOGUE[code].retryable, code


def test_the_catalogue_lists_the_refusals_that_the_ledger_knows() -> None:
    codes = list(CATALOGUE)
    block = codes[codes.index("too_few_entries") : codes.index("group_refused") + 1]
    assert sorted(block) == sorted(PRECEDENCE)


def test_every_code_that_a_decider_can_answer_is_ranked() -> None:
    """Reads the source: each string that a guard returns or refuses with is a code of PRECEDENCE."""
    found: set[str] = set()
    source = "".join(inspect.getsource(module) for module in (model, account_rules, guards))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
            found |= {
                leaf.value
                for leaf in ast.walk(node.args[0])
                if isinstance(leaf, ast.Constant) and leaf.value != "account_"
            }
        if (
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.add(node.value.value)
    assert found - {"account_"} <= set(PRECEDENCE)
    assert len(found) > 20


def test_a_refusal_changes_nothing_but_seq() -> None:
    for code, _, build in BREAKS:
        world = World()
        built = build(world)
        before = msgspec.json.encode(
            [world.book.accounts, world.book.references, world.book.assets, world.book.account_no]
        )
        world.do(*(built if isinstance(built, list) else [built]))
        after = msgspec.json.encode(
            [world.book.accounts, world.book.references, world.book.assets, world.book.account_no]
        )
        assert before == after, code


# --- edges of the order, and groups that take back everything ----------------------------------------


def test_a_change_answers_the_length_of_a_field_before_its_account() -> None:
    assert decide(change("nowhere", metadata={"a": "x" * 5000}))[0].code == "field_too_long"


def test_two_broken_limits_answer_the_rule_that_stands_first() -> None:
    assert decide(change("a", overdraft_limit="1.001", upper_limit="x"))[0].code == "amount_malformed"


def test_an_empty_external_reference_takes_nothing_from_accounts_without_one() -> None:
    world = World()
    world.do(c.OpenAccount("SGD", "asset", external_reference=""))
    assert world.do(c.OpenAccount("SGD", "asset"))[0].code is None


def test_a_refused_group_takes_back_the_account_that_it_opened() -> None:
    world = World()
    opening = c.OpenAccount("SGD", "asset", external_reference="new")
    accounts = set(world.book.accounts)
    world.do(opening, c.VoidPending("txn_x"))
    assert set(world.book.accounts) == accounts
    assert world.do(opening)[0].code is None


def test_a_quote_is_used_once_and_a_refused_use_leaves_it() -> None:
    world = World()
    assert [world.do(using(FREE, to=to)(world))[0].code for to in ("a", "b")] == [None, "quote_used"]
    other = World()
    assert [other.do(using(FREE, to=to)(other))[0].code for to in ("huge", "ice", "a", "a")] == [
        "balance_out_of_range", "account_frozen", None, "quote_used",
    ]  # fmt: skip


def test_a_refused_group_takes_back_the_use_of_a_quote() -> None:
    world = World()
    world.do(using(FREE, to="a")(world), c.VoidPending("txn_x"))
    [record] = world.do(using(FREE, to="a")(world))
    assert (record.code, record.target) == (None, -FREE)


def test_a_refused_group_takes_back_the_change_of_an_account() -> None:
    world = World()
    world.do(c.ChangeAccount(world.ids["b"], status="frozen"), c.VoidPending("txn_x"))
    assert world.book.accounts[world.ids["b"]].status == "open"


def test_a_refused_group_takes_back_the_asset_that_it_declared() -> None:
    world = World()
    world.do(c.DeclareAsset("GOLD", 3), c.VoidPending("txn_x"))
    assert world.do(c.DeclareAsset("GOLD", 4))[0].code is None
