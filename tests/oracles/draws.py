"""Random commands of every kind, mostly sensible, some of them wrong in one way, some at the edges."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from random import Random
from typing import Any

from finflow.ledger import commands as c
from oracles.ledger import Account, Ledger

CURRENCIES = ("JPY", "SGD", "SGD", "BHD", "CLF", "PTS")
WRONG_AMOUNTS = ("0", "-1", "0.0000001", "abc", "", "1e3", "99999999999999999999", "1_0", "-0", ".5", "5.")
NOWHERE_ACCOUNT = "acc_00000000007008000000000000"
NOWHERE_TRANSACTION = "txn_00000000007008000000000000"
DAY0 = datetime(2026, 1, 1, tzinfo=UTC)


class Draws:
    """Commands that fit what the oracle knows so far. `wild` is the chance of a deliberate mistake."""

    def __init__(self, random: Random, ledger: Ledger, wild: float = 0.15, huge_holds: bool = True) -> None:
        self.random = random
        self.ledger = ledger
        self.wild = wild
        # Releases that are dated before their huge holds do not fit a total by value date.
        self.huge_holds = huge_holds

    def any(self) -> c.Command:
        kinds = [self.post] * 8 + [self.hold] * 4 + [self.capture] * 3 + [self.reverse] * 2
        kinds += [self.void, self.expire, self.open, self.change, self.change, self.declare]
        return self.random.choice(kinds)()

    def transfer(self) -> c.Command:
        """Commands that a group may have: no accounts, no assets."""
        kinds = [self.post, self.post, self.hold, self.capture, self.void, self.expire, self.reverse]
        return self.random.choice(kinds)()

    def one_in(self, count: int) -> bool:
        return self.random.randrange(count) == 0

    def mistake(self) -> bool:
        return self.random.random() < self.wild

    # --- transactions ---

    def post(self) -> c.Command:
        entries = self.entries()
        optional: dict[str, Any] = {}
        if self.one_in(4):
            optional["effective_at"] = self.moment()
        if self.one_in(6):
            optional["description"] = "rent" if not self.mistake() else "x" * 501
            optional["metadata"] = {"a": "b"}
        if self.one_in(6):
            optional["reference"] = f"inv-{self.random.randrange(5)}" + ("\0" if self.mistake() else "")
        return c.PostTransaction(entries, **optional)

    def hold(self) -> c.Command:
        timeout_s = self.random.choice([None, None, 1, 3, 60])
        return c.PostTransaction(self.entries(self.huge_holds), pending=True, timeout_s=timeout_s)

    def entries(self, huge: bool = True) -> list[c.EntryLine]:
        entries = [line for _ in range(1 + self.one_in(5)) for line in self.balanced(huge)]
        if self.one_in(5):
            self.random.shuffle(entries)
        return self.spoil(entries) if self.mistake() else entries

    def balanced(self, huge: bool) -> list[c.EntryLine]:
        """Two or three lines in one currency; one account may stand in several of them."""
        first = self.account()
        if first is None:
            return []
        same = [a for a in self.ledger.accounts.values() if a.currency == first.currency]
        amount = self.amount(first.exponent, huge)
        parts = self.split(amount, 1 + self.one_in(4), first.exponent)
        others = [self.random.choice(same) for _ in parts]
        side, other = ("debit", "credit") if self.one_in(2) else ("credit", "debit")
        lines = [self.line(account, other, part) for account, part in zip(others, parts, strict=True)]
        return [self.line(first, side, amount), *lines]

    def split(self, amount: Decimal, count: int, exponent: int) -> list[Decimal]:
        smallest = Decimal(1).scaleb(-exponent)
        return [amount] if count == 1 or amount <= smallest else [amount - smallest, smallest]

    def line(self, account: Account, side: Any, amount: Decimal) -> c.EntryLine:
        text = f"{amount:f}"
        if "." in text and self.one_in(3):
            text = text.rstrip("0").rstrip(".")
        return c.EntryLine(account.account_id, side, text, account.currency)

    def spoil(self, entries: list[c.EntryLine]) -> list[c.EntryLine]:
        if not entries or self.one_in(8):
            return entries[:1]
        place = self.random.randrange(len(entries))
        line = entries[place]
        fields = {
            "account_id": self.random.choice([NOWHERE_ACCOUNT, "acc_", line.account_id[:-1]]),
            "currency": self.random.choice(["USD", "JPY", "sgd", ""]),
            "amount": self.random.choice(WRONG_AMOUNTS),
            "direction": "debit",
        }
        values = {name: getattr(line, name) for name in fields}
        for name in self.random.sample(sorted(fields), 1 + self.one_in(4)):
            values[name] = fields[name]
        return [*entries[:place], c.EntryLine(**values), *entries[place + 1 :]]

    def amount(self, exponent: int, huge: bool) -> Decimal:
        minor = self.random.randrange(1, 2000)
        if self.one_in(25) and huge:
            minor = self.random.choice([2**63 - 1, 2**62, 2**63 - 2])
        return Decimal(minor).scaleb(-exponent)

    def moment(self) -> datetime:
        if self.one_in(30):
            zone = timezone(timedelta(hours=14))
            return self.random.choice([datetime.min.replace(tzinfo=zone), datetime(1, 1, 2, tzinfo=UTC)])
        return DAY0 + timedelta(days=self.random.randrange(-20, 20), microseconds=self.random.randrange(3))

    # --- what becomes of them ---

    def capture(self) -> c.Command:
        target = self.transaction("hold")
        amount = None
        if self.one_in(2) and target in self.ledger.transactions:
            account, _, held = (
                self.ledger.transactions[target].lines[0] if self.lines_of(target) else (None, 0, 0)
            )
            minor = 0 if account is None else int(Decimal(held).scaleb(account.exponent))
            part = minor + 1 if self.one_in(8) else self.random.randrange(1, max(2, min(minor + 1, 10**6)))
            amount = f"{Decimal(part).scaleb(-(account.exponent if account else 0)):f}"
        if amount is not None and self.mistake():
            amount = self.random.choice(WRONG_AMOUNTS)
        return c.PostPending(target, amount, effective_at=self.moment() if self.one_in(4) else None)

    def lines_of(self, target: str) -> bool:
        return bool(self.ledger.transactions[target].lines)

    def void(self) -> c.Command:
        return c.VoidPending(self.transaction("hold"), description="x" * 501 if self.one_in(20) else None)

    def expire(self) -> c.Command:
        return c.ExpirePending(self.transaction("hold"))

    def reverse(self) -> c.Command:
        kind = self.random.choice(["post", "capture"])
        return c.ReverseTransaction(
            self.transaction(kind), effective_at=self.moment() if self.one_in(5) else None
        )

    def transaction(self, kind: str) -> str:
        known = list(self.ledger.transactions.values())
        if not known or self.one_in(25):
            return self.random.choice([NOWHERE_TRANSACTION, "txn_", "acc_x"])
        fitting = [t for t in known if t.kind == kind and t.resolved_by is None]
        if fitting and not self.mistake():
            return self.random.choice(fitting[-6:]).transaction_id
        return self.random.choice(known).transaction_id

    # --- accounts ---

    def account(self) -> Account | None:
        accounts = list(self.ledger.accounts.values())
        usable = [account for account in accounts if account.status == "open"]
        if usable and not self.one_in(30):
            return self.random.choice(usable)
        return self.random.choice(accounts) if accounts else None

    def open(self) -> c.Command:
        random = self.random
        currency = random.choice(CURRENCIES) if not self.one_in(12) else random.choice(["XXX", "", "PTX"])
        return c.OpenAccount(
            currency,
            random.choice(["asset", "liability", "equity", "income", "expense"]),
            overdraft_limit=self.limit(["0", "0", "100", None, None, None]),
            upper_limit=random.choice([None, None, None, "1000", "5000"]),
            external_reference=f"ref-{random.randrange(12)}" if self.one_in(4) else None,
            metadata={"n": "x" * 4096} if self.one_in(25) else None,
        )

    def change(self) -> c.Command:
        account = self.account()
        if account is None or self.one_in(25):
            return c.ChangeAccount(NOWHERE_ACCOUNT, status="open")
        changes: dict[str, Any] = {}
        what = self.random.randrange(4)
        if what == 0:
            changes["status"] = self.random.choice(["open", "open", "open", "frozen", "closed"])
        if what == 1:
            changes["overdraft_limit"] = self.limit(["0", "50", "100", "1000", None, None])
        if what == 2:
            changes["upper_limit"] = self.limit(["1000", "5000", None, None])
        if what == 3:
            frozen = [a for a in self.ledger.accounts.values() if a.status == "frozen"]
            account = self.random.choice(frozen) if frozen else account
            changes |= {"status": "open", "metadata": {"k": "v"}}
        return c.ChangeAccount(account.account_id, **changes)

    def limit(self, sensible: list[str | None]) -> str | None:
        return self.random.choice(WRONG_AMOUNTS if self.one_in(20) else sensible)

    def declare(self) -> c.Command:
        code = self.random.choice(["PTS", "PTS", "GOLD", "SGD", "USD"])
        return c.DeclareAsset(code, self.random.choice([6, 6, 6, 0]))
