"""A bank's days from a seed: salaries, rents, cards, cash, fees, interest. Pure: same seed, same rows.

Rows come in the order of time, each with the balance after it; memory holds one day and one balance
per account, however long the history. All amounts are integers of minor units.
"""

import bisect
import itertools
import random
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final, Literal, NamedTuple

from finflow.kernel import money

HEADER: Final = "id,booked_at,account,direction,kind,currency,amount,balance,counterparty\n"
FIRST_DAY: Final = date(2026, 1, 1)

Kind = Literal["opening", "salary", "rent", "card", "cash", "fee", "interest"]

_SALARY_DAY = 25
_RENT_DAY = 1
_MERCHANTS = 500
_EMPLOYERS = 40
_YEARLY_INTEREST_BP = 75
# Card payments per account and day, Monday to Sunday: the weekend is busier.
_CARDS_BY_WEEKDAY = (0.7, 0.7, 0.75, 0.8, 1.1, 1.4, 1.0)
# Relative number of card payments in each hour of the day: lunch and evening peaks, quiet nights.
_CARDS_BY_HOUR = (1, 1, 0, 0, 0, 1, 3, 7, 9, 8, 8, 12, 18, 14, 9, 9, 10, 14, 20, 22, 16, 10, 5, 2)


class Profile(NamedTuple):
    """What money looks like in one currency, in its smallest usual steps (`step_minor`)."""

    currency: str
    share: int
    step_minor: int
    salary_minor: int
    card_minor: int
    fee_minor: int


# Medians are of the right order for each country; shares are the accounts among a hundred.
PROFILES: Final = (
    Profile("SGD", 30, 5, 450_000, 1_800, 200),
    Profile("IDR", 20, 10_000, 550_000_000, 6_500_000, 1_500_000),
    Profile("THB", 15, 25, 1_800_000, 18_000, 2_500),
    Profile("VND", 10, 500, 12_000_000, 90_000, 11_000),
    Profile("PHP", 10, 25, 2_500_000, 35_000, 5_000),
    Profile("MYR", 10, 5, 380_000, 2_200, 200),
    Profile("USD", 5, 1, 420_000, 2_400, 300),
)


class WorkloadRow(NamedTuple):
    """One line of the file. `amount_minor` is above zero; `balance_minor` is the balance after it."""

    row_id: str
    booked_at: str
    account: str
    direction: Literal["credit", "debit"]
    kind: Kind
    currency: str
    amount_minor: int
    balance_minor: int
    counterparty: str


class _Account(NamedTuple):
    number: int
    profile: Profile
    salary_minor: int
    rent_minor: int
    employer: int


class _Event(NamedTuple):
    """Something that is about to happen; a positive amount credits the customer."""

    second: int
    account: int
    amount_minor: int
    kind: Kind
    counterparty: str


def generate(seed: int, accounts: int, days: int, first_day: date = FIRST_DAY) -> Iterator[WorkloadRow]:
    """Every row of `accounts` accounts over `days` days. Nobody spends what is not there."""
    return _Bank(seed, accounts).rows(days, first_day)


def to_line(row: WorkloadRow) -> str:
    """The row as one line of CSV; no field needs quotes."""
    exponent = money.exponent_of(row.currency) or 0
    amount, balance = (money.to_text(minor, exponent) for minor in (row.amount_minor, row.balance_minor))
    return (
        f"{row.row_id},{row.booked_at},{row.account},{row.direction},{row.kind},{row.currency},"
        f"{amount},{balance},{row.counterparty}\n"
    )


class _Bank:
    def __init__(self, seed: int, accounts: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 -- reproducible load, no secret depends on it
        # Zipf: the merchant of rank r gets 1/r of the first one's customers.
        self._merchants = list(itertools.accumulate(1 / rank for rank in range(1, _MERCHANTS + 1)))
        self._hours = list(itertools.accumulate(_CARDS_BY_HOUR))
        shares = list(itertools.accumulate(profile.share for profile in PROFILES))
        self._accounts = [self._account(number, shares) for number in range(accounts)]
        self._balances = [0] * accounts
        self._ids = itertools.count(1)

    def rows(self, days: int, first_day: date) -> Iterator[WorkloadRow]:
        """The rows of each day in the order of their time."""
        for number in range(days):
            today = first_day + timedelta(days=number)
            events = self._openings() if number == 0 else []
            for account in self._accounts:
                events.extend(self._events(account, today))
            # Sorting is stable, so events of one second keep the order in which they were made.
            for event in sorted(events, key=lambda each: each.second):
                yield from self._booked(event, today)
            if (today + timedelta(days=1)).day == 1:
                yield from self._month_end(today)

    def _account(self, number: int, shares: list[int]) -> _Account:
        profile = PROFILES[bisect.bisect(shares, self._random.random() * shares[-1])]
        salary = self._around(profile.salary_minor, 0.5, profile.step_minor)
        rent = _stepped(int(salary * (0.2 + 0.2 * self._random.random())), profile.step_minor)
        return _Account(number, profile, salary, rent, int(self._random.random() * _EMPLOYERS))

    def _openings(self) -> list[_Event]:
        """The first second of the first day: what each account had."""
        return [_Event(0, each.number, each.salary_minor, "opening", "branch") for each in self._accounts]

    def _events(self, account: _Account, today: date) -> Iterator[_Event]:
        number, profile = account.number, account.profile
        if today.day == _SALARY_DAY:
            payer = f"employer-{account.employer:02d}"
            yield _Event(self._second(9, 1), number, account.salary_minor, "salary", payer)
        if today.day == _RENT_DAY:
            yield _Event(self._second(6, 1), number, -account.rent_minor, "rent", "landlords")
        for _ in range(self._times(_CARDS_BY_WEEKDAY[today.weekday()])):
            amount = self._around(profile.card_minor, 0.9, profile.step_minor)
            yield _Event(self._card_second(), number, -amount, "card", self._merchant())
        if self._random.random() < 0.04:
            amount = self._around(profile.card_minor * 5, 0.5, profile.step_minor)
            yield _Event(self._second(8, 12), number, -amount, "cash", "teller-machine")

    def _booked(self, event: _Event, today: date) -> Iterator[WorkloadRow]:
        balance = self._balances[event.account] + event.amount_minor
        if balance < 0 or event.amount_minor == 0:
            return
        self._balances[event.account] = balance
        clock = f"{event.second // 3600:02d}:{event.second // 60 % 60:02d}:{event.second % 60:02d}"
        yield WorkloadRow(
            row_id=f"{self._seed}-{next(self._ids)}",
            booked_at=f"{today.isoformat()}T{clock}Z",
            account=f"{self._seed}-{event.account}",
            direction="credit" if event.amount_minor > 0 else "debit",
            kind=event.kind,
            currency=self._accounts[event.account].profile.currency,
            amount_minor=abs(event.amount_minor),
            balance_minor=balance,
            counterparty=event.counterparty,
        )

    def _month_end(self, today: date) -> Iterator[WorkloadRow]:
        """Interest on the closing balance, then the fee: the last seconds of the month."""
        for account in self._accounts:
            interest = self._balances[account.number] * _YEARLY_INTEREST_BP // 120_000
            yield from self._booked(_Event(86_398, account.number, interest, "interest", "bank"), today)
        for account in self._accounts:
            fee = -account.profile.fee_minor
            yield from self._booked(_Event(86_399, account.number, fee, "fee", "bank"), today)

    def _around(self, median: int, spread: float, step: int) -> int:
        """A log-normal amount around its median, in whole steps and never zero."""
        return max(step, _stepped(int(median * self._random.lognormvariate(0, spread)), step))

    def _times(self, mean: float) -> int:
        """How often something happens: a geometric count with this mean, at most twenty."""
        often = mean / (1 + mean)
        return next((count for count in range(20) if self._random.random() >= often), 20)

    def _second(self, first_hour: int, hours: int) -> int:
        return int((first_hour + self._random.random() * hours) * 3600)

    def _card_second(self) -> int:
        hour = bisect.bisect(self._hours, self._random.random() * self._hours[-1])
        return self._second(hour, 1)

    def _merchant(self) -> str:
        rank = bisect.bisect(self._merchants, self._random.random() * self._merchants[-1])
        return f"merchant-{rank + 1:03d}"


def _stepped(amount: int, step: int) -> int:
    return amount // step * step
