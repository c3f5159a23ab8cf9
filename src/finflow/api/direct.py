"""Routes with at most one parameter in their path, answered from tables instead of by the router.

Litestar finds a route, makes keyword arguments, wraps errors and builds a response: work that a handler of
ours needs none of, because it takes the request and returns its answer. Where the path names the handler, a
dictionary finds it. Everything else about the routes (documents, other methods, errors of routing) stays
with Litestar. See docs/adr/0001.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from inspect import signature
from typing import Any, Final

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler

from finflow.api.identity import Demand

Application = Callable[[Any, Any, Any], Awaitable[None]]

_PARAMETER: Final = re.compile(r"\{(\w+):str\}")
_HOLE: Final = "{}"
# Where in a path, split at its slashes, a parameter stands: /v1/accounts/{}, /v1/settlement/orders/{}.
_PLACES: Final = (3, 4)


class Routes:
    """What answers a method and path. Of others it knows nothing: the router does."""

    def __init__(self, app: Litestar, handlers: Iterable[HTTPRouteHandler]) -> None:
        self._fixed: dict[tuple[str, str], Application] = {}
        self._open: dict[tuple[str, str], Application] = {}
        for handler in handlers:
            for path in handler.paths:
                self._add(app, handler, path)

    def find(self, method: str, path: str) -> Application | None:
        """The application, given the whole scope, that answers this."""
        found = self._fixed.get((method, path))
        if found is not None:
            return found
        parts = path.split("/")
        for place in _PLACES[: max(0, len(parts) - _PLACES[0])]:
            value, parts[place] = parts[place], _HOLE
            found = self._open.get((method, "/".join(parts)))
            if found is not None and value:
                return found
            parts[place] = value
        return None

    def _add(self, app: Litestar, handler: HTTPRouteHandler, path: str) -> None:
        names = _PARAMETER.findall(path)
        if list(signature(handler.fn).parameters) != ["request", *names] or len(names) > 1:
            return
        demand = Demand(handler.opt)
        if not names:
            answer, table = _answering(app, handler.fn, demand), self._fixed
        else:
            place = path.split("/").index(f"{{{names[0]}:str}}")
            if place not in _PLACES:
                return
            answer, table = _answering_with(app, handler.fn, demand, names[0], place, path), self._open
        for method in handler.http_methods:
            table[method, _PARAMETER.sub(_HOLE, path)] = answer


def _answering(app: Litestar, handle: Callable[[Any], Awaitable[Application]], demand: Demand) -> Application:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = scope["path"]
        demand.check(scope["state"])
        scope["litestar_app"] = app
        await (await handle(Request(scope, receive, send)))(scope, receive, send)

    return answer


def _answering_with(
    app: Litestar,
    handle: Callable[..., Awaitable[Application]],
    demand: Demand,
    name: str,
    place: int,
    path: str,
) -> Application:
    template = path.replace(":str}", "}")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = template
        demand.check(scope["state"])
        scope["litestar_app"] = app
        value = {name: scope["path"].split("/")[place]}
        await (await handle(Request(scope, receive, send), **value))(scope, receive, send)

    return answer
