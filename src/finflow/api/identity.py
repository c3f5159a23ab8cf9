"""Who asks, and whether they may: the bearer token of a request, and what each route demands of it.

A route declares in its `opt` a `scope` (or `open`), and by `tenant` whether its caller must belong to one
(`required`, the default), may (`optional`: the platform's operator comes too) or must not (`none`: the
operator alone). The operator is a caller of scope `admin` without a tenant; nobody's money is his business.
"""

from collections.abc import Mapping
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from finflow.kernel.errors import FinFlowError

if TYPE_CHECKING:
    from finflow.identity.model import Principal

OPEN: Final = "open"
ADMIN: Final = "admin"


class Verifies(Protocol):
    """What tells a good token from a bad one."""

    async def verify(self, token: str, now_s: float) -> "Principal":
        """Whose token it is. Raises token_invalid or token_expired."""
        ...

    def knows(self, token: str, now_s: float) -> bool:
        """Whether the token was found good before, so that looking at it again costs nothing."""
        ...


async def identify(scope: Any, verifier: Verifies) -> None:
    """Put the caller on the request's state, or what is wrong with the token. Whether that matters, the
    route says."""
    state = scope["state"]
    try:
        token = bearer(scope["headers"])
        if token is not None:
            principal = state["principal"] = await verifier.verify(token, time())
            # What the request is counted, traced and logged as.
            state["tenant_id"] = principal.tenant_id
    except FinFlowError as error:
        state["unidentified"] = error


def bearer(headers: Any) -> str | None:
    """The token of the Authorization header, or None without one. Raises token_invalid."""
    given = [value for name, value in headers if name == b"authorization"]
    if not given:
        return None
    scheme, _, token = given[0].partition(b" ")
    if len(given) > 1 or scheme.lower() != b"bearer" or not token.strip().isascii():
        raise FinFlowError("token_invalid", "The Authorization header is not one bearer token.")
    text: str = token.strip().decode()
    return text


class Demand:
    """What a route wants of its callers, read off its `opt` once."""

    __slots__ = ("scope", "tenant")

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.scope: str = opt["scope"]
        self.tenant: str = opt.get("tenant", "required")

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises token_missing, what is wrong with the token, tenant_required, operator_required or
        scope_insufficient; looks at nothing but the caller.
        """
        if self.scope == OPEN:
            return
        principal = state.get("principal")
        if principal is None:
            raise state.get("unidentified") or FinFlowError("token_missing")
        needed = self.scope
        if principal.tenant_id is None:
            if self.tenant == "required":
                raise FinFlowError("tenant_required")
            needed = ADMIN
        elif self.tenant == "none":
            raise FinFlowError("operator_required")
        if needed not in principal.scopes:
            raise FinFlowError("scope_insufficient", f"The route needs the scope {needed}.", needed)


def guard(connection: "ASGIConnection[Any, Any, Any, Any]", handler: BaseRouteHandler) -> None:
    """Litestar's guard of every route that its router finds."""
    Demand(handler.opt).check(connection.scope["state"])


def principal_of(request: Any) -> "Principal":
    """The caller of a request that a route has let in."""
    found: Principal = request.scope["state"]["principal"]
    return found


def caller_of(request: Any) -> str:
    """The name that the journal keeps beside every command of this request."""
    return principal_of(request).subject
