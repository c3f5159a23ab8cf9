"""Which methods a path answers: for `Allow`, for OPTIONS, and HEAD as GET without a body."""

from typing import Any, Final

from litestar.exceptions import HTTPException

from finflow.api.answers import Answer
from finflow.kernel.errors import FinFlowError

_OF_THE_SERVER: Final = "*"
_ROUTED: Final = ("DELETE", "GET", "PATCH", "POST", "PUT")


def allowed(app: Any, path: str) -> str:
    """The Allow header of a path, empty for a path that is no route. HEAD goes wherever GET goes."""
    found = {method for method in _ROUTED if path == _OF_THE_SERVER or _routes(app, path, method)}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found | {"OPTIONS"})) if found else ""


def options(app: Any, path: str) -> Answer:
    """The answer to OPTIONS. Nothing about other origins in it: browsers' pages elsewhere may not call.

    Raises route_unknown.
    """
    methods = allowed(app, path)
    if not methods:
        raise FinFlowError("route_unknown")
    return Answer(204, b"", ((b"allow", methods.encode()),))


def _routes(app: Any, path: str, method: str) -> bool:
    try:
        app.asgi_router.handle_routing(path=path, method=method)
    except HTTPException:
        return False
    return True
