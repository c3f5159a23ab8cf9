"""The shapes that travel, and the decision whether a failed request is worth another attempt. Pure."""

from typing import Final, Literal

import msgspec

from finflow.kernel.errors import CATALOGUE, FinFlowError

Direction = Literal["debit", "credit"]
AccountKind = Literal["asset", "liability", "equity", "income", "expense"]

_FIRST_DELAY_S: Final = 0.05
_LAST_DELAY_S: Final = 2.0
_MAX_KEPT_TEXT = 500


class Tenant(msgspec.Struct, frozen=True):
    """A tenant as the interface shows it."""

    tenant_id: str
    name: str


class Ledger(msgspec.Struct, frozen=True):
    """A ledger as the interface shows it."""

    ledger_id: str
    tenant_id: str
    name: str


class Account(msgspec.Struct, frozen=True):
    """An account; `overdraft_limit` None is unlimited, amounts are decimal strings."""

    account_id: str
    currency: str
    kind: AccountKind
    external_reference: str | None = None
    overdraft_limit: str | None = None


class NewAccount(msgspec.Struct, frozen=True):
    """What an account is opened with; `overdraft_limit` None is unlimited."""

    ledger_id: str
    currency: str
    kind: AccountKind
    external_reference: str
    overdraft_limit: str | None = None
    metadata: dict[str, str] = {}


class Leg(msgspec.Struct, frozen=True):
    """One entry of a transaction to be posted; `amount` is a decimal string above zero."""

    account_id: str
    direction: Direction
    amount: str
    currency: str


class NewTransaction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A transaction to be posted under its own idempotency key; `effective_at` is RFC 3339 UTC."""

    idempotency_key: str
    entries: tuple[Leg, ...]
    description: str | None = None
    reference: str | None = None
    effective_at: str | None = None
    metadata: dict[str, str] = {}


class Transaction(msgspec.Struct, frozen=True):
    """What the ledger answers to a posted transaction."""

    transaction_id: str
    seq: int
    status: str


class BatchResult(msgspec.Struct, frozen=True):
    """The outcome of one member of a batch: 201, or the code of its refusal."""

    idempotency_key: str
    status: int
    transaction_id: str | None = None
    seq: int | None = None
    code: str | None = None
    detail: str | None = None
    param: str | None = None
    replayed: bool = False


class BatchAnswer(msgspec.Struct, frozen=True):
    """The outcomes of a batch, in the order of its members."""

    results: list[BatchResult]


class Entry(msgspec.Struct, frozen=True):
    """One line of an account's history; `balance` is the balance after it on the account's normal side."""

    account_id: str
    version: int
    transaction_id: str
    amount: str
    balance: str
    direction: Direction


class EntryPage(msgspec.Struct, frozen=True):
    """Entries, newest first; `next` is the version to go on before, or None at the end."""

    items: list[Entry]
    next: int | None = None


class Balance(msgspec.Struct, frozen=True):
    """An account's balance on its normal side, as decimal strings."""

    account_id: str
    currency: str
    version: int
    balance: str
    available: str


class CurrencyTotal(msgspec.Struct, frozen=True):
    """Posted totals of one currency over a ledger, as decimal strings."""

    currency: str
    posted_debits: str
    posted_credits: str
    balanced: bool


class TrialBalance(msgspec.Struct, frozen=True):
    """Whether debits equal credits in every currency, and the totals that say so."""

    ledger_id: str
    seq: int
    balanced: bool
    currencies: list[CurrencyTotal]


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details as the house writes them; every field may be missing in a stranger's."""

    code: str = ""
    detail: str = ""
    param: str | None = None
    request_id: str | None = None
    retryable: bool = False


def problem_of(status: int, body: bytes) -> Problem:
    """The problem in an error response; a body that is none keeps its text as the detail."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        text = body[:_MAX_KEPT_TEXT].decode("utf-8", "replace")
        # A proxy's 502, 503 or 504 says nothing about the request: the same key may be sent again.
        return Problem(detail=f"HTTP {status}: {text}", retryable=status in (502, 503, 504))


def error_of(status: int, problem: Problem) -> FinFlowError:
    """The catalogue's error of a problem; a code that this release does not know becomes `internal`."""
    if problem.code in CATALOGUE:
        return FinFlowError(problem.code, problem.detail or None, problem.param)
    trace = f" (request {problem.request_id})" if problem.request_id else ""
    return FinFlowError("internal", f"HTTP {status} {problem.code} {problem.detail}{trace}", problem.param)


def retry_delay_s(attempt: int, unit: float) -> float:
    """Seconds before attempt number `attempt` (from 1): doubling, capped, full jitter by `unit` in [0, 1)."""
    ceiling = min(_LAST_DELAY_S, _FIRST_DELAY_S * float(2 ** min(attempt - 1, 16)))
    # Never zero: a server that refuses at once would be asked in a tight loop.
    return ceiling * (0.1 + 0.9 * unit)
