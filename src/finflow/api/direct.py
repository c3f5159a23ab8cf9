"""Routes without path parameters, answered from a table instead of by the router.

Litestar finds a route, makes keyword arguments, wraps errors and builds a response: work that a handler of
ours needs none of, because it takes the request and returns its answer. Where the path alone names the
handler, a dictionary finds it. Everything else about the routes (documents, other methods, parameters,
errors of routing) stays with Litestar. See docs/adr/0001.
"""

from collections.abc import Awaitable, Callable, Iterable
from inspect import signature
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler

from finflow.api.identity import Demand

Application = Callable[[Any, Any, Any], Awaitable[None]]
Table = dict[tuple[str, str], Application]


def table(app: Litestar, handlers: Iterable[HTTPRouteHandler]) -> Table:
    """(method, path) of every handler whose only argument is the request, and what answers it."""
    return {
        (method, path): _answering(app, handler.fn, Demand(handler.opt))
        for handler in handlers
        if list(signature(handler.fn).parameters) == ["request"]
        for path in handler.paths
        if "{" not in path
        for method in handler.http_methods
    }


def _answering(app: Litestar, handle: Callable[[Any], Awaitable[Application]], demand: Demand) -> Application:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        demand.check(scope["state"])
        scope["litestar_app"] = app
        scope["path_template"] = scope["path"]
        await (await handle(Request(scope, receive, send)))(scope, receive, send)

    return answer
