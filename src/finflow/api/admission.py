"""The door behind the token check: how much of this host a tenant's requests may take.

It stands before routing and before the body, and a refusal costs one look into shared memory and a small
answer. Whoever is refused is answered a moment later: a client that asks again at once, on however many
connections, then spends its time waiting instead of this process's. See docs/adr/0011.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from finflow.api.answers import Header
from finflow.kernel.errors import FinFlowError
from finflow.limits.service import LimitService

PAUSE_S: Final = 0.25
MAX_PAUSED: Final = 512

Headers = tuple[Header, ...]


class Refused(FinFlowError):
    """A request that came too early. `wait_s` becomes Retry-After, `headers` say what is left."""

    def __init__(self, code: str, wait_s: int, headers: Headers = ()) -> None:
        super().__init__(code, f"Come again in {wait_s} s.")
        self.wait_s = wait_s
        self.headers = headers


class Door:
    """Lets requests in by their tenant. `limits` is asked for when the first one comes."""

    def __init__(self, limits: Callable[[], LimitService], pause_s: float = PAUSE_S) -> None:
        self._limits = limits
        self._pause_s = pause_s
        self._paused = 0

    async def enter(self, state: dict[str, Any]) -> Headers:
        """Let the caller of this request in; the headers say what is left. Raises Refused.

        Nobody's requests (no token, a bad one) are not counted here: the route refuses them, or is open.
        """
        principal = state.get("principal")
        if principal is None:
            return ()
        entry = self._limits().enter(principal.tenant_id)
        if entry.code is None:
            state["let_in"] = principal.tenant_id
            return entry.headers
        await self._pause()
        raise Refused(entry.code, entry.wait_s, entry.headers)

    def leave(self, state: dict[str, Any]) -> None:
        """The request has been answered, or is gone."""
        if "let_in" in state:
            self._limits().leave(state.pop("let_in"))

    async def _pause(self) -> None:
        """Hold an answer back; with too many held back already it goes out at once."""
        if self._paused >= MAX_PAUSED:
            return
        self._paused += 1
        try:
            await asyncio.sleep(self._pause_s)
        finally:
            self._paused -= 1
