"""The door: who a request comes from, and how much of this host they may take.

It stands before routing and before the body, and a refusal costs one look into shared memory and a small
answer. Whoever comes a little too fast waits here for its turn, so that what is let in comes evenly; whoever
comes much too fast is refused, and that answer comes a moment later: a client that asks again at once, on
however many connections, then spends its time waiting instead of this process's. Who is not known yet is
bounded by the address: requests for tokens, and tokens that have failed their check. See docs/adr/0011.
"""

import asyncio
import math
import os
import random
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, Protocol

from finflow.api.answers import Header
from finflow.api.identity import Verifies, bearer, identify
from finflow.kernel.errors import FinFlowError
from finflow.limits.service import LimitService

if TYPE_CHECKING:
    from finflow.identity.model import Principal

PAUSE_S: Final = 0.25
# Whoever waits for a turn comes in at the next of these moments, together with the others who wait: their
# commands then share a commit, where each by itself would have the disk busy for everybody.
TURN_S: Final = 0.025
# Workers have their turns at different moments, or one tenant would have all processors at once.
_PHASES: Final = 4
MAX_PAUSED: Final = 512
MAX_FLOODS: Final = 1_000
OAUTH_PATH: Final = "/oauth/token"

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
        # Addresses that sent too many bad tokens, and until when their unknown ones are not looked at.
        self._floods: dict[str, float] = {}

    async def enter(self, scope: Any) -> Headers:
        """Put the caller on the request's state and let it in; the headers say what is left. Raises Refused.

        A request without a good token is not a tenant's: the route refuses it, or is open.
        """
        services, state = self._services(), scope["state"]
        if self._floods or scope["path"] == OAUTH_PATH:
            await self._hold_strangers(scope, services)
        await identify(scope, services.verifier)
        principal: Principal | None = state.get("principal")
        if principal is None:
            if "unidentified" in state:
                self._charge(_address(scope), services.limits)
            return ()
        limits, tenant_id = services.limits, principal.tenant_id
        entry = limits.enter(tenant_id)
        if entry.wait_s or (entry.delay_s and not await self._paused_for(self._turn_in_s(entry.delay_s))):
            await self._hold_back()
            raise Refused("rate_limited", entry.wait_s or 1, entry.headers)
        if not limits.start(tenant_id):
            await self._hold_back()
            raise Refused("concurrency_limited", 1, entry.headers)
        state["inside"] = tenant_id
        return entry.headers

    def leave(self, scope: Any) -> None:
        """The request has been answered, or is gone."""
        state = scope["state"]
        if "inside" in state:
            self._services().limits.leave(state.pop("inside"))

    async def _hold_strangers(self, scope: Any, services: Services) -> None:
        """Raises Refused for whoever would cost work without being known, and has cost too much already."""
        address = _address(scope)
        if scope["path"] == OAUTH_PATH:
            wait_s = services.limits.stranger(address)
        else:
            wait_s = math.ceil(self._floods.get(address, 0.0) - monotonic())
            token = bearer(scope["headers"]) if wait_s > 0 else None
            if token is None or services.verifier.knows(token, time()):
                return
        if wait_s > 0:
            await self._hold_back()
            raise Refused("rate_limited", wait_s)

    def _charge(self, address: str, limits: LimitService) -> None:
        """Count a token that failed its check against the address that sent it."""
        wait_s = limits.stranger(address)
        if wait_s:
            if len(self._floods) >= MAX_FLOODS:
                self._floods.clear()
            self._floods[address] = monotonic() + wait_s

    def _turn_in_s(self, delay_s: float) -> float:
        return turn_in_s(monotonic(), delay_s, os.getpid() % _PHASES / _PHASES)

    async def _hold_back(self) -> None:
        """Let a refusal wait: no two for as long, or a client's connections would all come again together."""
        await self._paused_for(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311 # to spread them

    async def _paused_for(self, duration_s: float) -> bool:
        """Hold a request back for a while; at once False with too many held back already."""
        if self._paused >= MAX_PAUSED:
            return False
        self._paused += 1
        try:
            await asyncio.sleep(duration_s)
        finally:
            self._paused -= 1
        return True


def turn_in_s(now_s: float, delay_s: float, phase: float) -> float:
    """How long to wait, at least `delay_s`, for the next common turn, if turns are a part of one later."""
    return (math.ceil((now_s + delay_s) / TURN_S - phase) + phase) * TURN_S - now_s


def _address(scope: Any) -> str:
    """The peer's address; the same for all where there is none, as behind a socket of this machine."""
    client = scope.get("client")
    return str(client[0]) if client else ""
