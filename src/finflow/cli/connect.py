"""Which API a command talks to, in whose name, and how one that asks it one thing runs.

Imports late: help needs nothing.
"""

import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from finflow.app import Config
    from finflow.client.service import Client
    from finflow.client.tokens import TokenProvider

T = TypeVar("T")

_ID: Final = re.compile(r"\b(?:ten|led|acc|txn|fxq|fxr|ord|cyc)_[0-9a-z]{26}\b")
# Their commands are the operator's, whatever ids stand in them.
_OPERATOR: Final = ("tenant", "client", "limit")
_RENEW_AFTER_S: Final = 600
# Everybody's books are unknown to a tenant that is not there: the server finds the words for that.
_NOBODY: Final = "ten_0000000000e008000000000000"


@asynccontextmanager
async def api_url(url: str | None, config: "Config") -> AsyncIterator[str]:
    """The URL to use. Where nothing runs yet, FinFlow is started on the data folder for this block alone."""
    from finflow.app import running
    from finflow.stack.folder import DataFolder

    state = DataFolder(config.data).read_state() if url is None else None
    if url is not None or state is not None:
        yield url or (state.url if state else "")
        return
    click.echo(f"Starting FinFlow on {config.data} for this command ...", err=True)
    async with running(config) as stack:
        yield stack.url


class LocalTokens:
    """Tokens for whoever may read the keys folder, signed here: for the operator, or any tenant.

    Raises signing_key_unknown and data_unusable.
    """

    def __init__(self, config: "Config", url: str) -> None:
        from finflow.identity.keys import KeyFolder, Keyring
        from finflow.stack.folder import DataFolder

        state = DataFolder(config.data).read_state()
        folder = state.keys if state and state.keys else config.keys_folder
        self._keyring = Keyring(KeyFolder(Path(folder)))
        self._issuer = config.issuer or (state.issuer if state else None) or url

    def operator(self) -> "TokenProvider":
        """Tokens of the platform's operator."""
        return self._provider(None)

    def of(self, tenant_id: str) -> "TokenProvider":
        """Tokens of a tenant's administrator, who may do everything in it."""
        return self._provider(tenant_id)

    def mint(self, tenant_id: str | None, scopes: tuple[str, ...] = (), ttl_s: int = 900) -> str:
        """One token; without scopes it has all that there are for a tenant, or for the operator."""
        from finflow.identity.model import OPERATOR_SCOPES, SCOPES
        from finflow.identity.tokens import mint

        now_s = time.time()
        return mint(
            self._keyring.signing(now_s),
            issuer=self._issuer,
            subject="local",
            tenant_id=tenant_id,
            scopes=scopes or (OPERATOR_SCOPES if tenant_id is None else SCOPES),
            now_s=now_s,
            ttl_s=ttl_s,
        )

    def _provider(self, tenant_id: str | None) -> "TokenProvider":
        token, minted_s = "", float("-inf")

        async def provide() -> str:
            nonlocal token, minted_s
            if time.monotonic() - minted_s > _RENEW_AFTER_S:
                token, minted_s = self.mint(tenant_id), time.monotonic()
            return token

        return provide


class Access:
    """What a command proves itself with: FINFLOW_TOKEN, a client's key, or else the local keys."""

    def __init__(self, url: str, config: "Config") -> None:
        self._url = url
        self._config = config

    def given(self) -> "TokenProvider | None":
        """What the environment names, or None. Raises setting_malformed for half of a client."""
        from finflow.client.tokens import ClientCredentials, StaticToken
        from finflow.kernel.errors import FinFlowError

        if token := os.environ.get("FINFLOW_TOKEN"):
            return StaticToken(token)
        client_id, key = os.environ.get("FINFLOW_CLIENT_ID"), os.environ.get("FINFLOW_CLIENT_KEY")
        if bool(client_id) != bool(key):
            detail = "FINFLOW_CLIENT_ID and FINFLOW_CLIENT_KEY (a file) belong together."
            raise FinFlowError("setting_malformed", detail, "FINFLOW_CLIENT_KEY")
        return ClientCredentials(self._url, client_id, Path(key)) if client_id and key else None

    def local(self) -> LocalTokens | None:
        """The keys of the data folder, if that is where the API runs."""
        from finflow.stack.folder import DataFolder

        state = DataFolder(self._config.data).read_state()
        if state is None or not _same_place(state.url, self._url):
            return None
        return LocalTokens(self._config, self._url)

    async def tenant_named(self, words: str, tokens: LocalTokens) -> str | None:
        """The tenant that owns what these words name; None if they name nothing."""
        from finflow.client.service import Client
        from finflow.kernel import ids

        found = _ID.search(words)
        if found is None or found[0].startswith("ten_"):
            return found[0] if found else None
        prefix = found[0][:3]
        place = ids.parse(prefix, found[0])
        async with Client(self._url, token=tokens.operator(), timeout_s=30, budget_s=60) as platform:
            if prefix == "led":
                return (await platform.ledger(found[0])).tenant_id
            for ledger in await platform.ledgers():
                its = ids.parse("led", ledger.ledger_id)
                if place is not None and its is not None and its.ledger_no == place.ledger_no:
                    return ledger.tenant_id
        return _NOBODY


def _same_place(ours: str, theirs: str) -> bool:
    """Whether two URLs lead to one port of this machine, by whichever of its names."""
    from urllib.parse import urlsplit

    one, other = urlsplit(ours), urlsplit(theirs)
    loopback = ("127.0.0.1", "localhost", "::1", one.hostname)
    return one.port == other.port and one.scheme == other.scheme and other.hostname in loopback


def ask(
    where: dict[str, Any],
    question: Callable[["Client"], Awaitable[T]],
    shown: Callable[[T], str],
    tenant_id: str | None = None,
) -> T:
    """Ask the API one thing and print the answer: as text, as JSON, or its id alone, which comes first in it.

    `where` is what `api_options` adds to a command. Without credentials in the environment a local API is
    asked in the name of `tenant_id`, else of the tenant that owns what the command names, else as operator.

    Raises FinFlowError with the code among its words, for the three lines on standard error.
    """
    import asyncio

    from finflow.cli import echo_json
    from finflow.kernel.errors import FinFlowError

    try:
        answer = asyncio.run(_asked(where, question, tenant_id))
    except FinFlowError as error:
        raise FinFlowError(error.kind.code, _words(error), error.param) from error
    if where["as_json"]:
        echo_json(answer)
    elif where.get("only_id"):
        click.echo(_id(answer))
    else:
        click.echo(shown(answer))
    return answer


def _id(answer: Any) -> str:
    """The field that every shape of something that was made begins with."""
    return str(getattr(answer, answer.__struct_fields__[0]))


def running_url(where: dict[str, Any], config: "Config") -> str:
    """The URL that was named, or that of the FinFlow which runs on the data folder."""
    if where["url"]:
        return str(where["url"])
    from finflow.kernel.errors import FinFlowError
    from finflow.stack.folder import DataFolder

    state = DataFolder(config.data).read_state()
    if state is None:
        # Starting one would make an empty database, only to say that the account is not in it.
        raise FinFlowError("stack_not_running", f"Nothing runs on {config.data}, and no --url is given.")
    return state.url


async def _asked(
    where: dict[str, Any], question: Callable[["Client"], Awaitable[T]], tenant_id: str | None
) -> T:
    from finflow.app import Config
    from finflow.client.service import Client

    config = Config.load({"data": where["data"]})
    url = running_url(where, config)
    access = Access(url, config)
    token = access.given() or await _local(access, tenant_id)
    async with Client(url, token=token, timeout_s=30, budget_s=60) as api:
        return await question(api)


async def _local(access: Access, tenant_id: str | None) -> "TokenProvider | None":
    tokens = access.local()
    if tokens is None:
        # Nobody to ask as: the server says what it wants, if there is one.
        return None
    if tenant_id is not None:
        return tokens.of(tenant_id)
    context = click.get_current_context()
    nouns = context.command_path.split()
    if set(nouns) & set(_OPERATOR):
        return tokens.operator()
    named = await access.tenant_named(repr(list(context.params.values())), tokens)
    if named is None and nouns[-1] != "list":
        named = _NOBODY
    return tokens.operator() if named is None else tokens.of(named)


def _words(error: Any) -> str:
    """The code for programs, the place in the request, and what the title does not say yet."""
    place = f" ({error.param})" if error.param else ""
    more = "" if error.detail == error.kind.title else f": {error.detail}"
    return f"{error.kind.code}{place}{more}"
