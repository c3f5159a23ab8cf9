"""`finflow tenant`: add tenants, list them, say how much each may take. Thin over the client."""

from typing import TYPE_CHECKING, Any

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, limit_option, making_options
from finflow.kernel.errors import EXIT_DONE

if TYPE_CHECKING:
    from finflow.client.administration import Limits
    from finflow.client.model import Tenant
    from finflow.client.service import Client


@click.group
def tenant() -> None:
    """Add tenants, list them, say how much each may take."""


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


def _number(_: click.Context, parameter: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text == "default":
        return text
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= 10_000_000):
        raise click.BadParameter("write a whole number from 1 on, or `default`", param=parameter)
    return int(text)


@tenant.command
@click.argument("tenant_id")
@click.option("--requests-per-s", metavar="N", callback=_number, help="In the long run; or `default`.")
@click.option("--burst", metavar="N", callback=_number, help="At once after a pause; or `default`.")
@click.option("--concurrency", metavar="N", callback=_number, help="Under way in a worker; or `default`.")
@api_options
def limit(tenant_id: str, **given: Any) -> int:
    """Show how many requests a tenant may send, or change it."""
    words = {name: given.pop(name) for name in ("requests_per_s", "burst", "concurrency")}
    changed = {name: None if word == "default" else word for name, word in words.items() if word is not None}

    async def question(api: "Client") -> "Limits":
        from finflow.client.administration import LimitsChange

        if not changed:
            return await api.limits(tenant_id)
        return await api.change_limits(tenant_id, LimitsChange(**changed))

    ask(given, question, screens.limits)
    return EXIT_DONE
