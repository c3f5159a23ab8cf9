"""`finflow token`: an access token signed with the local key, for whoever may read it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from finflow.cli import echo_json
from finflow.cli.options import data_option, json_option
from finflow.kernel.errors import EXIT_DONE, FinFlowError

_MAX_S = 900


@click.command
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Whose it is [the platform's operator].")
@click.option("--scope", "scopes", multiple=True, help="What it is for; may be repeated [everything].")
@click.option(
    "--ttl", type=click.IntRange(1, _MAX_S), default=_MAX_S, show_default=True, help="Seconds it lives."
)
@click.option("--issuer", metavar="URL", help="Who it is from and for (FINFLOW_ISSUER) [what runs here].")
@data_option
@json_option
def token(tenant_id: str | None, scopes: tuple[str, ...], ttl: int, as_json: bool, **flags: Any) -> int:
    """Print an access token for local use."""
    from finflow.app import LOCAL_ISSUER, Config
    from finflow.cli.connect import LocalTokens
    from finflow.kernel import ids

    if tenant_id is not None and ids.parse("ten", tenant_id) is None:
        raise FinFlowError("id_malformed", f"{tenant_id[:40]!r} is no tenant's id.", "--tenant")
    words = tuple(word for scope in scopes for word in scope.split())
    _check(words, tenant_id)
    text = LocalTokens(Config.load(flags), LOCAL_ISSUER).mint(tenant_id, words, ttl)
    until = datetime.now(UTC) + timedelta(seconds=ttl)
    if as_json:
        echo_json({"access_token": text, "token_type": "Bearer", "expires_in": ttl})
    else:
        click.echo(text)
    click.echo(f"It expires at {until:%Y-%m-%dT%H:%M:%SZ}, in {ttl} seconds.", err=True)
    return EXIT_DONE


def _check(scopes: tuple[str, ...], tenant_id: str | None) -> None:
    from finflow.identity.model import OPERATOR_SCOPES, SCOPES

    grantable = OPERATOR_SCOPES if tenant_id is None else SCOPES
    if not set(scopes) <= set(grantable):
        raise FinFlowError("scope_not_granted", f"It may have: {' '.join(grantable)}.", "--scope")
