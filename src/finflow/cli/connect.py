"""Which API a command talks to, and how one that asks it one thing runs. Imports late: help needs nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from finflow.app import Config
    from finflow.client.service import Client

T = TypeVar("T")


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


def ask(
    where: dict[str, Any],
    question: Callable[["Client"], Awaitable[T]],
    shown: Callable[[T], str],
) -> T:
    """Ask the API one thing and print the answer: as text, as JSON, or its id alone, which comes first in it.

    `where` is what `api_options` adds to a command.

    Raises FinFlowError with the code among its words, for the three lines on standard error.
    """
    import asyncio

    from finflow.cli import echo_json
    from finflow.kernel.errors import FinFlowError

    try:
        answer = asyncio.run(_asked(running_url(where), question))
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


def running_url(where: dict[str, Any]) -> str:
    """The URL that was named, or that of the FinFlow which runs on the data folder."""
    if where["url"]:
        return str(where["url"])
    from finflow.app import Config
    from finflow.kernel.errors import FinFlowError
    from finflow.stack.folder import DataFolder

    config = Config.load({"data": where["data"]})
    state = DataFolder(config.data).read_state()
    if state is None:
        # Starting one would make an empty database, only to say that the account is not in it.
        raise FinFlowError("stack_not_running", f"Nothing runs on {config.data}, and no --url is given.")
    return state.url


async def _asked(url: str, question: Callable[["Client"], Awaitable[T]]) -> T:
    from finflow.client.service import Client

    async with Client(url, timeout_s=30, budget_s=60) as api:
        return await question(api)


def _words(error: Any) -> str:
    """The code for programs, the place in the request, and what the title does not say yet."""
    place = f" ({error.param})" if error.param else ""
    more = "" if error.detail == error.kind.title else f": {error.detail}"
    return f"{error.kind.code}{place}{more}"
