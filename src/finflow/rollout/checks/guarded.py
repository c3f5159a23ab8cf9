"""What every check is: a look with a deadline, and a word on whatever can go wrong in it.

A check that cannot look says ERROR, never PASS, and it never raises: the controller that asks may be about
to take a release back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.rollout.verdicts import Judgement, Verdict

log = logging.getLogger(__name__)

Numbers = Mapping[str, float | int | str]
Look = Callable[[], Awaitable[Judgement]]
# A sentence that is read in a terminal and in a chat: what comes after this is cut.
MAX_WORDS: Final = 600


def judged(gate: str, verdict: Verdict, words: str, numbers: Numbers = MappingProxyType({})) -> Judgement:
    """A judgement in a sentence of bounded length."""
    return Judgement(
        gate, verdict, numbers, words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"
    )


def some(names: list[str], most: int = 5) -> str:
    """The first few of a list in words."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


class Guarded:
    """A check around one look."""

    def __init__(self, gate: str, look: Look, timeout_s: float) -> None:
        self._gate = gate
        self._look = look
        self._timeout_s = timeout_s

    async def judge(self) -> Judgement:
        """Look now, for so long at most."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._look()
        except TimeoutError:
            return self._error(f"There was no answer within {self._timeout_s:g} s.")
        except FinFlowError as error:
            return self._error(f"{error.kind.title} {error.detail}" if error.detail else error.kind.title)
        except OSError as error:
            return self._error(f"{error.filename or 'The system'}: {error.strerror or error}.")
        except Exception as error:
            log.exception("a check broke", extra={"check": self._gate})
            return self._error(f"The check itself broke: {type(error).__name__}.")

    def _error(self, words: str) -> Judgement:
        return judged(self._gate, Verdict.ERROR, words)
