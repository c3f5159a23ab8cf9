"""What customers of the demonstration want, from a seed: payments, conversions, orders, reads. Pure."""

import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

Kind = Literal["payment", "hold", "conversion", "order", "balance", "entries"]

# Relative numbers: mostly payments and looks at a balance, as in a bank's app.
_SHARES: Final[dict[Kind, int]] = {
    "payment": 46, "hold": 4, "conversion": 12, "order": 5, "balance": 27, "entries": 6,
}  # fmt: skip
HOME: Final = "SGD"
# What customers buy. The dong has no decimals: it is the case that the demonstration's fault forgets.
FOREIGN: Final = ("USD", "EUR", "VND")


class Customer(NamedTuple):
    """A customer: the key that requests are routed by, and an account in each currency."""

    key: str
    accounts: dict[str, str]


class Intent(NamedTuple):
    """One thing that a customer wants. `name` is its idempotency key and its reference."""

    name: str
    kind: Kind
    customer: Customer
    other: Customer
    amount: str
    currency: str


def intents(seed: int, customers: Sequence[Customer]) -> Iterator[Intent]:
    """Intents without end; the same seed and customers give the same ones."""
    rng = random.Random(seed)  # noqa: S311 - reproducible load; nothing secret hangs on it
    kinds, weights = list(_SHARES), list(_SHARES.values())
    number = 0
    while True:
        number += 1
        one, other = rng.sample(customers, 2)
        [kind] = rng.choices(kinds, weights)
        amount = f"{rng.randint(1, 49)}.{rng.randint(0, 99):02}"
        yield Intent(f"live-{seed}-{number}", kind, one, other, amount, rng.choice(FOREIGN))
