"""The door: who a request comes from, and how much of this host they may take.

It stands before routing and before the body, and a refusal costs one look into shared memory and a small
answer. Whoever is refused is answered a moment later: a client that asks again at once, on however many
connections, then spends its time waiting instead of this process's. See docs/adr/0011.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from finflow.api.answers import Header
from finflow.api.identity import Verifies, identify
from finflow.kernel.errors import FinFlowError
from finflow.limits.service import LimitService

if TYPE_CHECKING:
    from finflow.identity.model import Principal

PAUSE_S: Final = 0.25
MAX_PAUSED: Final = 512

Headers = tuple[Header, ...]


class Services(Protocol):
    """What the door needs of the composition root."""

    @property
    def verifier(self) -> Verifies: ...

    @property
    def limits(self) -> LimitService: ...


class Refused(FinFlowError):
    """A request that came too early. `wait_s` becomes Retry-After, `headers` say what is left."""

    def __init__(self, code: str, wait_s: int, headers: Headers = ()) -> None:
        super().__init__(code, f"Come again in {wait_s} s.")
        self.wait_s = wait_s
        self.headers = headers


class Doorkeeper:
    """Finds out who asks, and lets them in as far as their limits go."""

    def __init__(self, services: Callable[[], Services], pause_s: float = PAUSE_S) -> None:
        self._services = services
        self._pause_s = pause_s
        self._paused = 0

    async def enter(self, scope: Any) -> Headers:
        """Put the caller on the request's state and let it in; the headers say what is left. Raises Refused.

        A request without a good token is not a tenant's: the route refuses it, or is open.
        """
        services, state = self._services(), scope["state"]
        await identify(scope, services.verifier)
        principal: Principal | None = state.get("principal")
        if principal is None:
            return ()
        entry = services.limits.enter(principal.tenant_id)
        if entry.code is None:
            state["inside"] = principal.tenant_id
            return entry.headers
        await self._pause()
        raise Refused(entry.code, entry.wait_s, entry.headers)

    def leave(self, scope: Any) -> None:
        """The request has been answered, or is gone."""
        state = scope["state"]
        if "inside" in state:
            self._services().limits.leave(state.pop("inside"))

    async def _pause(self) -> None:
        """Hold an answer back; with too many held back already it goes out at once."""
        if self._paused >= MAX_PAUSED:
            return
        self._paused += 1
        try:
            await asyncio.sleep(self._pause_s)
        finally:
            self._paused -= 1
