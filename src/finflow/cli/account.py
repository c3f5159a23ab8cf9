"""`finflow account`: open, read and change accounts. Thin over the client; it prints with screens.py."""

from typing import TYPE_CHECKING, Any

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, key_option, limit_option, making_options, metadata_option
from finflow.kernel.errors import EXIT_DONE, EXIT_NO

if TYPE_CHECKING:
    from finflow.client.model import Account, AccountChange, Entry
    from finflow.client.service import Client

_KINDS = ("asset", "liability", "equity", "income", "expense")
_account = click.argument("account_id", metavar="ACCOUNT")


@click.group
def account() -> None:
    """Open, read and change accounts."""


@account.command("open")
@click.option("--ledger", "ledger_id", metavar="LEDGER", required=True, help="The ledger it belongs to.")
@click.option("--kind", type=click.Choice(_KINDS), required=True, help="What it is in the books.")
@click.option("--currency", required=True, help="An ISO 4217 code, or an asset of the ledger.")
@click.option("--overdraft-limit", metavar="AMOUNT", default="0", show_default=True, help="Or `unlimited`.")
@click.option("--upper-limit", metavar="AMOUNT", default="none", show_default=True, help="Or `none`.")
@click.option("--reference", metavar="TEXT", help="Your own name for it, unique in the ledger.")
@metadata_option("What else you want to keep with it")
@key_option
@making_options
def open_(
    ledger_id: str, kind: Any, currency: str, overdraft_limit: str, upper_limit: str, reference: str | None,
    metadata: dict[str, str], key: str | None, **where: Any,
) -> int:  # fmt: skip
    """Open an account."""

    async def question(api: "Client") -> "Account":
        from finflow.client.model import NewAccount

        new = NewAccount(
            ledger_id, currency, kind, reference, _limit(overdraft_limit), metadata, _limit(upper_limit)
        )
        return await api.open_account(new, key=key)

    ask(where, question, screens.account)
    return EXIT_DONE


@account.command
@_account
@api_options
def show(account_id: str, **where: Any) -> int:
    """Show an account."""
    ask(where, lambda api: api.account(account_id), screens.account)
    return EXIT_DONE


@account.command("list")
@click.option("--ledger", "ledger_id", metavar="LEDGER", required=True, help="The ledger to look in.")
@click.option("--reference", metavar="TEXT", help="Only the account with this reference.")
@limit_option
@api_options
def list_(ledger_id: str, reference: str | None, limit: int, **where: Any) -> int:
    """List a ledger's accounts in the order of their opening."""

    async def question(api: "Client") -> "list[Account]":
        if reference is not None:
            found = await api.find_account(ledger_id, reference)
            return [] if found is None else [found]
        return await listing.first(api.accounts(ledger_id, page_size=listing.page_size(limit)), limit)

    ask(where, question, screens.accounts)
    return EXIT_DONE


@account.command
@_account
@click.option("--as-of", metavar="MOMENT", help="As it was booked by then (RFC 3339 with a time zone).")
@click.option("--effective-at", metavar="MOMENT", help="By value date.")
@click.option("--at-seq", type=click.IntRange(min=0), help="After this row of the journal.")
@api_options
def balance(
    account_id: str, as_of: str | None, effective_at: str | None, at_seq: int | None, **where: Any
) -> int:
    """Show a balance, now or as of a moment."""
    ask(
        where,
        lambda api: api.balance(account_id, as_of=as_of, effective_at=effective_at, at_seq=at_seq),
        screens.balance,
    )
    return EXIT_DONE


@account.command
@_account
@limit_option
@api_options
def entries(account_id: str, limit: int, **where: Any) -> int:
    """List an account's entries, newest first."""

    async def question(api: "Client") -> "list[Entry]":
        return await listing.first(api.entries(account_id, page_size=listing.page_size(limit)), limit)

    ask(where, question, screens.entries)
    return EXIT_DONE


@account.command
@_account
@key_option
@api_options
def freeze(account_id: str, key: str | None, **where: Any) -> int:
    """Freeze an account: nothing moves on it until it is unfrozen."""
    ask(where, lambda api: api.freeze_account(account_id, key=key), screens.account)
    return EXIT_DONE


@account.command
@_account
@key_option
@api_options
def unfreeze(account_id: str, key: str | None, **where: Any) -> int:
    """Unfreeze an account."""
    ask(where, lambda api: api.unfreeze_account(account_id, key=key), screens.account)
    return EXIT_DONE


@account.command
@_account
@click.option("--yes", is_flag=True, help="Do not ask.")
@key_option
@api_options
def close(account_id: str, yes: bool, key: str | None, **where: Any) -> int:
    """Close an empty account for ever."""
    if not yes and not click.confirm(f"Close {account_id} for ever?", default=False, err=True):
        click.echo("Nothing was done.", err=True)
        return EXIT_NO
    ask(where, lambda api: api.close_account(account_id, key=key), screens.account)
    return EXIT_DONE


@account.command("set")
@_account
@click.option("--overdraft-limit", metavar="AMOUNT", help="Or `unlimited`.")
@click.option("--upper-limit", metavar="AMOUNT", help="Or `none`.")
@metadata_option("Replaces all metadata")
@click.option(
    "--if-match", metavar="ETAG", default="*", help="Only if this is still its etag (`show --json`)."
)
@key_option
@api_options
def set_(
    account_id: str, overdraft_limit: str | None, upper_limit: str | None, metadata: dict[str, str],
    if_match: str, key: str | None, **where: Any,
) -> int:  # fmt: skip
    """Change an account's limits or metadata."""
    if overdraft_limit is None and upper_limit is None and not metadata:
        raise click.UsageError("Say what to change: --overdraft-limit, --upper-limit or --metadata.")

    async def question(api: "Client") -> "Account":
        change = _change(overdraft_limit, upper_limit, metadata)
        return await api.change_account(account_id, change, if_match=if_match, key=key)

    ask(where, question, screens.account)
    return EXIT_DONE


def _change(
    overdraft_limit: str | None, upper_limit: str | None, metadata: dict[str, str]
) -> "AccountChange":
    from msgspec import UNSET

    from finflow.client.model import AccountChange

    return AccountChange(
        overdraft_limit=UNSET if overdraft_limit is None else _limit(overdraft_limit),
        upper_limit=UNSET if upper_limit is None else _limit(upper_limit),
        metadata=metadata or UNSET,
    )


def _limit(words: str) -> str | None:
    return None if words in ("unlimited", "none") else words
