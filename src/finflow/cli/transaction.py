"""`finflow transaction`: post, hold, read, resolve and reverse. Thin over the client.

There is no --dry-run: only the ledger can tell what it would decide, and nothing there can ask it without
having it done. A balance that is read first may be another one when the transaction arrives.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, key_option, limit_option, making_options, metadata_option
from finflow.kernel.errors import EXIT_DONE

if TYPE_CHECKING:
    from finflow.client.model import Account, Direction, Leg, Transaction
    from finflow.client.service import Client

F = TypeVar("F", bound=Callable[..., Any])

_transaction = click.argument("transaction_id", metavar="TRANSACTION")
_description = click.option("--description", metavar="TEXT", help="Up to 500 characters.")
_effective_at = click.option("--effective-at", metavar="MOMENT", help="The value date [now].")


@click.group
def transaction() -> None:
    """Post, hold, read, capture, void and reverse transactions."""


def _entries_options(command: F) -> F:
    side: dict[str, Any] = {"metavar": "ACCOUNT[=AMOUNT]", "multiple": True, "required": True}
    for option in (
        making_options,
        key_option,
        metadata_option("What else you want to keep with it"),
        _effective_at,
        click.option("--reference", metavar="TEXT", help="Up to 140 characters, to find it again."),
        _description,
        click.option("--ledger", "ledger_id", metavar="LEDGER", help="[the first account's]"),
        click.option("--currency", help="Of every entry [each account's own]."),
        click.option("--amount", help="Of every entry that does not name its own."),
        click.option("--credit", "credits_", help="Credit this account; may be repeated.", **side),
        click.option("--debit", "debits", help="Debit this account; may be repeated.", **side),
    ):
        command = option(command)
    return command


@transaction.command
@_entries_options
def post(**options: Any) -> int:
    """Post a transaction; debits and credits are equal."""
    return _book(options)


@transaction.command
@click.option("--timeout-s", type=click.IntRange(min=1), help="Release it after so many seconds [never].")
@_entries_options
def hold(timeout_s: int | None, **options: Any) -> int:
    """Hold the amounts of a transaction, to be captured or voided later."""
    return _book(options, pending=True, timeout_s=timeout_s)


def _book(options: dict[str, Any], **holding: Any) -> int:
    sides = [("debit", each) for each in options["debits"]] + [
        ("credit", each) for each in options["credits_"]
    ]
    drafts = [_draft(direction, words, options["amount"]) for direction, words in sides]

    async def question(api: "Client") -> "Transaction":
        from finflow.client.model import NewTransaction

        ledger_id, legs = await _legs(api, drafts, options["ledger_id"], options["currency"])
        new = NewTransaction(
            options["key"], legs, options["description"], options["reference"], options["effective_at"],
            options["metadata"], **holding,
        )  # fmt: skip
        return await api.post(ledger_id, new)

    ask(options, question, screens.transaction)
    return EXIT_DONE


def _draft(direction: Any, words: str, amount: str | None) -> "tuple[Direction, str, str]":
    """(direction, account, amount) of one `ACCOUNT[=AMOUNT]`."""
    account_id, _, own = words.partition("=")
    if not (own or amount):
        raise click.UsageError(f"How much? Write --{direction} {account_id}=AMOUNT, or --amount for all.")
    return direction, account_id, own or amount or ""


async def _legs(
    api: "Client",
    drafts: "Sequence[tuple[Direction, str, str]]",
    ledger_id: str | None,
    currency: str | None,
) -> "tuple[str, tuple[Leg, ...]]":
    """Ledger and entries; what was not said is read from the accounts."""
    import asyncio

    from finflow.client.model import Leg

    known: dict[str, Account] = {}
    if ledger_id is None or currency is None:
        account_ids = list(dict.fromkeys(account_id for _, account_id, _ in drafts))
        found = await asyncio.gather(*(api.account(account_id) for account_id in account_ids))
        known = dict(zip(account_ids, found, strict=True))
    legs = tuple(
        Leg(account_id, direction, amount, currency or known[account_id].currency)
        for direction, account_id, amount in drafts
    )
    return ledger_id or known[drafts[0][1]].ledger_id, legs


@transaction.command
@_transaction
@api_options
def show(transaction_id: str, **where: Any) -> int:
    """Show a transaction and what became of it."""
    ask(where, lambda api: api.transaction(transaction_id), screens.transaction)
    return EXIT_DONE


@transaction.command("list")
@click.option("--ledger", "ledger_id", metavar="LEDGER", required=True, help="The ledger to look in.")
@click.option("--account", "account_id", metavar="ACCOUNT", help="Only those on this account.")
@click.option("--reference", metavar="TEXT", help="Only those with this reference.")
@click.option(
    "--status", type=click.Choice(("posted", "pending", "voided", "expired", "reversed")), help="Only these."
)
@click.option(
    "--kind", type=click.Choice(("post", "hold", "capture", "void", "expire", "reverse")), help="Only these."
)
@click.option("--newest", is_flag=True, help="Newest first.")
@limit_option
@api_options
def list_(
    ledger_id: str, account_id: str | None, reference: str | None, status: Any, kind: Any, newest: bool,
    limit: int, **where: Any,
) -> int:  # fmt: skip
    """List a ledger's transactions in the order of the journal."""

    async def question(api: "Client") -> "list[Transaction]":
        from finflow.client.model import TransactionFilter

        which = TransactionFilter(
            account_id=account_id, reference=reference, status=status, kind=kind,
            order="newest" if newest else "oldest",
        )  # fmt: skip
        found = api.transactions(ledger_id, which, page_size=listing.page_size(limit))
        return await listing.first(found, limit)

    ask(where, question, screens.transactions)
    return EXIT_DONE


@transaction.command
@_transaction
@click.option("--amount", help="Capture so much, release the rest [all of it].")
@_description
@_effective_at
@key_option
@making_options
def capture(
    transaction_id: str, amount: str | None, description: str | None, effective_at: str | None,
    key: str | None, **where: Any,
) -> int:  # fmt: skip
    """Post a hold, whole or in part."""
    ask(
        where,
        lambda api: api.capture(
            transaction_id, amount, description=description, effective_at=effective_at, key=key
        ),
        screens.transaction,
    )
    return EXIT_DONE


@transaction.command
@_transaction
@_description
@key_option
@making_options
def void(transaction_id: str, description: str | None, key: str | None, **where: Any) -> int:
    """Release a hold."""
    ask(where, lambda api: api.void(transaction_id, description=description, key=key), screens.transaction)
    return EXIT_DONE


@transaction.command
@_transaction
@_description
@_effective_at
@key_option
@making_options
def reverse(
    transaction_id: str, description: str | None, effective_at: str | None, key: str | None, **where: Any
) -> int:
    """Take a posted transaction back with a new one."""
    ask(
        where,
        lambda api: api.reverse(transaction_id, description=description, effective_at=effective_at, key=key),
        screens.transaction,
    )
    return EXIT_DONE
