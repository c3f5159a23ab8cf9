"""Answers as plain text: names and values below each other, or a table. Never a colour. Pure."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finflow.client.administration import Limits, RegisteredClient
    from finflow.client.model import Account, Balance, Entry, Ledger, Tenant, Transaction, TrialBalance

_GAP = "  "


def fields(value: Any, words: dict[str, str] | None = None, without: Sequence[str] = ()) -> str:
    """Every field of an answer on a line; `words` says what None means where it means something."""
    shown = {name: getattr(value, name) for name in value.__struct_fields__ if name not in without}
    meanings = words or {}
    rows = [
        (name, meanings.get(name, "") if each is None else text(each))
        for name, each in shown.items()
        if (each is not None or name in meanings) and not isinstance(each, list | bool)
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}{_GAP}{each}" for name, each in rows)


def text(value: object) -> str:
    """One value: moments as RFC 3339 in UTC, metadata as pairs, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in sorted(value.items())) or "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], right: frozenset[str] = frozenset()) -> str:
    """Columns as wide as their widest cell; those named in `right` end below each other, as amounts do."""
    lines = [tuple(head), *(tuple(text(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def limits(found: "Limits") -> str:
    """What a tenant may take, each line with whether it is the tenant's own or everybody's default."""
    rows = [
        (name, getattr(found, name), "its own" if name in found.overridden else "default")
        for name in ("requests_per_s", "burst", "concurrency")
    ]
    return table(("LIMIT", "VALUE", "IS"), rows, frozenset({"VALUE"}))


def client(found: "RegisteredClient") -> str:
    """One client, and its keys in a table below."""
    rows = [(key.kid, key.algorithm, key.created_at, key.revoked_at) for key in found.keys]
    named = fields(found, {"tenant_id": "none: the operator's"})
    keys = table(("KEY", "ALGORITHM", "CREATED", "REVOKED"), rows)
    return f"{named}\nscopes      {' '.join(found.scopes)}\n\n{keys}"


def clients(found: "Sequence[RegisteredClient]") -> str:
    """One line a client."""
    rows = [
        (each.client_id, each.tenant_id, each.name, " ".join(each.scopes), each.revoked_at) for each in found
    ]
    return table(("CLIENT", "TENANT", "NAME", "SCOPES", "REVOKED"), rows)


def account(found: "Account") -> str:
    """One account; a limit that is not there is said so. The etag is for programs, which read JSON."""
    return fields(found, {"overdraft_limit": "unlimited", "upper_limit": "none"}, ("etag",))


def accounts(found: "Sequence[Account]") -> str:
    """One account a line."""
    head = ("ACCOUNT", "KIND", "CURRENCY", "STATUS", "REFERENCE")
    rows = [
        (each.account_id, each.kind, each.currency, each.status, each.external_reference) for each in found
    ]
    return table(head, rows)


def balance(found: "Balance") -> str:
    """The balance and what it is made of, amounts below each other."""
    names = ("balance", "available", "posted_debits", "posted_credits", "pending_debits", "pending_credits")
    amounts = [str(getattr(found, name)) for name in names]
    width = max(map(len, amounts))
    lines = [
        f"{name:<15}{_GAP}{each:>{width}} {found.currency}" for name, each in zip(names, amounts, strict=True)
    ]
    return "\n".join([*lines, f"{'as of seq':<15}{_GAP}{found.seq}"])


def entries(found: "Sequence[Entry]") -> str:
    """One entry a line."""
    head = (
        "VERSION",
        "SEQ",
        "KIND",
        "DIRECTION",
        "AMOUNT",
        "BALANCE",
        "AVAILABLE",
        "EFFECTIVE",
        "TRANSACTION",
    )
    rows = [
        (
            each.version, each.seq, each.kind, each.direction, each.amount, each.balance, each.available,
            each.effective_at, each.transaction_id,
        )
        for each in found
    ]  # fmt: skip
    return table(head, rows, frozenset({"VERSION", "SEQ", "AMOUNT", "BALANCE", "AVAILABLE"}))


def transaction(found: "Transaction") -> str:
    """What was booked, and its entries as a table."""
    head = ("DIRECTION", "ACCOUNT", "AMOUNT", "CURRENCY", "BALANCE")
    rows = [
        (line.direction, line.account_id, line.amount, line.currency, line.balance) for line in found.entries
    ]
    replayed = "\n\nThis key was used before: it is the same transaction." if found.replayed else ""
    return f"{fields(found)}\n\n{table(head, rows, frozenset({'AMOUNT', 'BALANCE'}))}{replayed}"


def transactions(found: "Sequence[Transaction]") -> str:
    """One transaction a line; the amount is what its debits come to."""
    head = ("SEQ", "TRANSACTION", "KIND", "STATUS", "AMOUNT", "EFFECTIVE", "DESCRIPTION")
    rows = [
        (
            each.seq, each.transaction_id, each.kind, each.status, _total(each), each.effective_at,
            each.description,
        )
        for each in found
    ]  # fmt: skip
    return table(head, rows, frozenset({"SEQ", "AMOUNT"}))


def _total(found: "Transaction") -> str:
    totals: dict[str, Decimal] = {}
    for line in found.entries:
        if line.direction == "debit":
            totals[line.currency] = totals.get(line.currency, Decimal()) + Decimal(line.amount)
    return " + ".join(f"{total} {currency}" for currency, total in totals.items())


def ledgers(found: "Sequence[Ledger]") -> str:
    """One ledger a line."""
    rows = [(each.ledger_id, each.name, each.tenant_id, each.created_at) for each in found]
    return table(("LEDGER", "NAME", "TENANT", "CREATED"), rows)


def trial_balance(found: "TrialBalance") -> str:
    """The totals of every currency, and the sentence that they add up to."""
    head = ("CURRENCY", "POSTED DEBITS", "POSTED CREDITS", "PENDING DEBITS", "PENDING CREDITS", "BALANCED")
    rows = [
        (
            each.currency, each.posted_debits, each.posted_credits, each.pending_debits, each.pending_credits,
            each.balanced,
        )
        for each in found.currencies
    ]  # fmt: skip
    verdict = "The books balance" if found.balanced else "THE BOOKS DO NOT BALANCE"
    return f"{table(head, rows, frozenset(head[1:5]))}\n\n{verdict} as of seq {found.seq}."


def tenants(found: "Sequence[Tenant]") -> str:
    """One tenant a line."""
    rows = [(each.tenant_id, each.name, each.created_at) for each in found]
    return table(("TENANT", "NAME", "CREATED"), rows)
