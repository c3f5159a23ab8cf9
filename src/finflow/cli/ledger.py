"""`finflow ledger`: open ledgers, read them, check their books. Thin over the client."""

from typing import Any

import click

from finflow.cli import screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, making_options
from finflow.kernel.errors import EXIT_DONE, EXIT_NO

_ledger = click.argument("ledger_id", metavar="LEDGER")


@click.group
def ledger() -> None:
    """Open ledgers, read them, check their books."""


@ledger.command
@click.argument("name")
@click.option(
    "--tenant", "tenant_id", metavar="TENANT", help="Whose ledger it is; a token of a tenant says it itself."
)
@making_options
def create(name: str, tenant_id: str | None, **where: Any) -> int:
    """Open a ledger."""
    ask(where, lambda api: api.create_ledger(name), screens.fields, tenant_id=tenant_id)
    return EXIT_DONE


@ledger.command("list")
@api_options
def list_(**where: Any) -> int:
    """List ledgers."""
    ask(where, lambda api: api.ledgers(), screens.ledgers)
    return EXIT_DONE


@ledger.command
@_ledger
@api_options
def show(ledger_id: str, **where: Any) -> int:
    """Show a ledger."""
    ask(where, lambda api: api.ledger(ledger_id), screens.fields)
    return EXIT_DONE


@ledger.command("trial-balance")
@_ledger
@api_options
def trial_balance(ledger_id: str, **where: Any) -> int:
    """Add up every currency; exit 1 if debits and credits differ."""
    books = ask(where, lambda api: api.trial_balance(ledger_id), screens.trial_balance)
    return EXIT_DONE if books.balanced else EXIT_NO
