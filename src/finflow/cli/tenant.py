"""`finflow tenant`: add tenants and list them. Thin over the client."""

from typing import TYPE_CHECKING, Any

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, limit_option, making_options
from finflow.kernel.errors import EXIT_DONE

if TYPE_CHECKING:
    from finflow.client.model import Tenant
    from finflow.client.service import Client


@click.group
def tenant() -> None:
    """Add tenants and list them."""


@tenant.command
@click.argument("name")
@making_options
def create(name: str, **where: Any) -> int:
    """Add a tenant."""
    ask(where, lambda api: api.create_tenant(name), screens.fields)
    return EXIT_DONE


@tenant.command("list")
@limit_option
@api_options
def list_(limit: int, **where: Any) -> int:
    """List tenants."""

    async def question(api: "Client") -> "list[Tenant]":
        return await listing.first(api.tenants(), limit)

    ask(where, question, screens.tenants)
    return EXIT_DONE
