"""Tries again until a notice is delivered or its time is over. What is told twice carries the same key."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.rollout.notices.model import pauses

Sleep = Callable[[float], Awaitable[None]]
MAX_ASKED_WAIT_S: Final = 30.0


class Refused(Exception):
    """The receiver will not take this notice, however often it comes."""


class NotNow(Exception):
    """The receiver could not take it now; it may have asked for a pause."""

    def __init__(self, words: str, wait_s: float = 0.0) -> None:
        super().__init__(words)
        self.wait_s = wait_s


async def delivered(
    name: str,
    attempt: Callable[[], Awaitable[None]],
    within_s: float,
    sleep: Sleep = asyncio.sleep,
    share: Callable[[], float] = random.random,
) -> None:
    """Have `attempt` succeed once. Raises notice_undelivered with the last reason, and nothing else."""
    reason = "there was no time for a try"
    waits = pauses(within_s)
    try:
        async with asyncio.timeout(within_s):
            for wait in [*waits, None]:
                try:
                    return await attempt()
                except Refused as error:
                    raise FinFlowError("notice_undelivered", f"{name}: {error}") from error
                except NotNow as error:
                    reason, asked = str(error), error.wait_s
                if wait is None:
                    break
                # Full jitter: many rollouts that failed at once do not come back at once.
                await sleep(max(wait * share(), asked))
    except TimeoutError:
        reason = f"not within {within_s:g} s; at last: {reason}"
    raise FinFlowError("notice_undelivered", f"{name}: {reason}")
