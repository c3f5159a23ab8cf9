"""One statement for all who ask at once, as group commit does for writers.

A request that needs one row would, hundreds at a time, keep hundreds waiting for a connection, the ledger's
writer among them. Here, whatever is asked while a statement runs is in the next. Such a round is nobody's
child: like a group commit it has a trace of its own, linked both ways with a span of every request that it
served.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final, Generic, TypeVar

from finflow.kernel.errors import FinFlowError
from finflow.telemetry import tracing
from finflow.telemetry.tracing import Running, Trace, Work, detached, error_name, running, tenant_of

K = TypeVar("K")
V = TypeVar("V")

MAX_AT_ONCE: Final = 1_000
MAX_WAITING: Final = 20_000

# A question, where its answer goes, and who asked when, in seconds of the monotonic clock.
Asked = tuple[K, "asyncio.Future[V]", Running | None, float]


class Gathering(Generic[K, V]):
    """Answers single questions by a function that answers many: one value for each, in their order.

    At most `at_once` questions go into one call. `name` is that of the span in which a request waits for it.
    """

    def __init__(
        self, name: str, answer: Callable[[Sequence[K]], Awaitable[Sequence[V]]], at_once: int = MAX_AT_ONCE
    ) -> None:
        self._name = name
        self._answer = answer
        self._at_once = at_once
        self._waiting: list[Asked[K, V]] = []
        self._task: asyncio.Task[None] | None = None
        # The trace of the round that runs, where traces are recorded.
        self._root: Trace | None = None

    async def ask(self, question: K) -> V:
        """Raises what the function raises, to everybody whom it was asked for; and overloaded."""
        if len(self._waiting) >= MAX_WAITING:
            raise FinFlowError("overloaded", f"{len(self._waiting)} questions wait")
        reply: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        since_s = perf_counter()
        self._waiting.append((question, reply, running(), since_s))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(detached(self._run()))
        try:
            return await reply
        except asyncio.CancelledError as error:
            self._gave_up(since_s, error)
            raise

    def _gave_up(self, since_s: float, error: BaseException) -> None:
        """Who asks no longer says what it waited for until now: its round, or the one before that."""
        caller = running()
        if self._root is not None and caller is not None:
            Work(self._root, self._name, self._root.started_ns, error_name(error), {}).serve(
                [(caller, since_s, 0)]
            )

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
            try:
                answers = await self._round(asked)
            except Exception as error:  # noqa: BLE001,RUF100 - whoever asked gets it, and this must go on
                for _, reply, _, _ in asked:
                    if not reply.done():
                        reply.set_exception(error)
                continue
            for (_, reply, _, _), answer in zip(asked, answers, strict=True):
                # Whoever gave up meanwhile is not told.
                if not reply.done():
                    reply.set_result(answer)

    async def _round(self, asked: "Sequence[Asked[K, V]]") -> Sequence[V]:
        """Answer as part of a trace of its own. The askers go on only after its end, so none is over."""
        questions = [question for question, _, _, _ in asked]
        tracer = tracing.tracer()
        if not tracer.recording:
            return await self._answer(questions)
        askers = [(caller, since_s, 0) for _, _, caller, since_s in asked if caller is not None]
        root, error = tracer.begin_for_others(f"db.gathered {self._name}"), None
        self._root, root.tenant = root, _whose(askers)
        root.attributes["finflow.questions"] = len(questions)
        token = tracing.enter(root)
        try:
            return await self._answer(questions)
        except BaseException as failure:
            error = error_name(failure)
            raise
        finally:
            tracing.leave(token)
            self._root = None
            Work(root, self._name, root.started_ns, error, {}).serve(askers)
            tracer.finish(root, error)


def _whose(askers: Sequence[tuple[Running, float, int]]) -> str | None:
    """The tenant of everybody who asked, or None where they differ."""
    first = tenant_of(askers[0][0]) if askers else None
    return first if all(tenant_of(caller) == first for caller, _, _ in askers) else None
