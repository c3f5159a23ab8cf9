"""One statement for all who ask at once, as group commit does for writers.

A request that needs one row would, hundreds at a time, keep hundreds waiting for a connection, the ledger's
writer among them. Here, whatever is asked while a statement runs is in the next.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from finflow.kernel.errors import FinFlowError

K = TypeVar("K")
V = TypeVar("V")

MAX_AT_ONCE: Final = 1_000
MAX_WAITING: Final = 20_000


class Gathering(Generic[K, V]):
    """Answers single questions by a function that answers many: one value for each, in their order.

    At most `at_once` questions go into one call.
    """

    def __init__(
        self, answer: Callable[[Sequence[K]], Awaitable[Sequence[V]]], at_once: int = MAX_AT_ONCE
    ) -> None:
        self._answer = answer
        self._at_once = at_once
        self._waiting: list[tuple[K, asyncio.Future[V]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: K) -> V:
        """Raises what the function raises, to everybody whom it was asked for; and overloaded."""
        if len(self._waiting) >= MAX_WAITING:
            raise FinFlowError("overloaded", f"{len(self._waiting)} questions wait")
        reply: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, reply))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await reply

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
            try:
                answers = await self._answer([question for question, _ in asked])
            except Exception as error:  # noqa: BLE001,RUF100 - whoever asked gets it, and this must go on
                for _, reply in asked:
                    if not reply.done():
                        reply.set_exception(error)
                continue
            for (_, reply), answer in zip(asked, answers, strict=True):
                # Whoever gave up meanwhile is not told.
                if not reply.done():
                    reply.set_result(answer)
