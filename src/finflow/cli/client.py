"""`finflow client`: programs that may ask for access tokens, and their keys. Thin over the client."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finflow.cli import listing, screens
from finflow.cli.connect import ask
from finflow.cli.options import api_options, limit_option, making_options
from finflow.kernel.errors import EXIT_DONE, FinFlowError

if TYPE_CHECKING:
    from finflow.client.administration import RegisteredClient
    from finflow.client.service import Client

_client = click.argument("client_id", metavar="CLIENT")
_key = click.option(
    "--key",
    "key_file",
    metavar="FILE",
    required=True,
    help="Its private key: made and written there (0600), or read if it is there; `-` prints it.",
)


@click.group
def client() -> None:
    """Add programs that may ask for access tokens, rotate their keys, revoke them."""


@client.command
@click.argument("name")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Whose it is [the platform's operator].")
@click.option("--scope", "scopes", multiple=True, help="What it may do; may be repeated.")
@_key
@making_options
def create(name: str, tenant_id: str | None, scopes: tuple[str, ...], key_file: str, **where: Any) -> int:
    """Add a client with a key of its own."""
    words = [word for scope in scopes for word in scope.split()]
    if not words:
        raise click.UsageError("Name at least one --scope.")
    _with_key(
        key_file,
        lambda jwk: ask(where, lambda api: api.create_client(name, words, jwk, tenant_id), screens.client),
    )
    return EXIT_DONE


@client.command("list")
@limit_option
@api_options
def list_(limit: int, **where: Any) -> int:
    """List clients."""

    async def question(api: "Client") -> "list[RegisteredClient]":
        return await listing.first(api.clients(page_size=listing.page_size(limit)), limit)

    ask(where, question, screens.clients)
    return EXIT_DONE


@client.command
@_client
@api_options
def show(client_id: str, **where: Any) -> int:
    """Show a client and its keys."""
    ask(where, lambda api: api.client(client_id), screens.client)
    return EXIT_DONE


@client.command
@_client
@_key
@api_options
def rotate(client_id: str, key_file: str, **where: Any) -> int:
    """Give a client one more key; revoke the former with `revoke --kid` once the new one is in use."""
    _with_key(
        key_file, lambda jwk: ask(where, lambda api: api.add_client_key(client_id, jwk), screens.client)
    )
    return EXIT_DONE


@client.command
@_client
@click.option("--kid", help="Revoke this key alone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@api_options
def revoke(client_id: str, kid: str | None, yes: bool, **where: Any) -> int:
    """Revoke a client for ever, tokens included, or one of its keys."""
    what = f"the key {kid} of {client_id}" if kid else f"{client_id} and its tokens"
    if not yes:
        click.confirm(f"Revoke {what}, for ever?", abort=True, err=True)

    async def question(api: "Client") -> "RegisteredClient":
        if kid is None:
            return await api.revoke_client(client_id)
        return await api.revoke_client_key(client_id, kid)

    ask(where, question, screens.client)
    return EXIT_DONE


def _with_key(file: str, register: Any) -> None:
    """Register the public half of the key in the file; a new file does not outlive a refusal."""
    from joserfc.jwk import OKPKey

    from finflow.client.tokens import private_key

    path = Path(file)
    if file != "-" and path.exists():
        register(_public(private_key(path)[0]))
        return
    fresh = OKPKey.generate_key("Ed25519")
    pem = fresh.as_pem(private=True)
    if file == "-":
        register(_public(fresh))
        click.echo(pem.decode(), nl=False)
        return
    _write(path, pem)
    try:
        register(_public(fresh))
    except FinFlowError as error:
        # After a lost answer the key may be registered, and then it must not be lost.
        if error.kind.status < 500:
            path.unlink(missing_ok=True)
        raise


def _public(key: Any) -> dict[str, Any]:
    return {name: value for name, value in key.as_dict(private=False).items() if name != "kid"}


def _write(path: Path, pem: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as written:
            written.write(pem)
    except OSError as error:
        raise FinFlowError("data_unusable", f"{path}: {error.strerror}", "--key") from error
    click.echo(f"The private key is in {path}. Nobody else has it.", err=True)
