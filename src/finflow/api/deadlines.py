"""A deadline for each of many requests, at the price of one dictionary entry instead of one timer each."""

import asyncio
from time import monotonic
from typing import Any, Final

TICK_S: Final = 0.25


class Deadlines:
    """Cancels tasks that run longer than `limit_s`, at most `tick_s` late; says which ones it cancelled."""

    def __init__(self, limit_s: float, tick_s: float = TICK_S) -> None:
        self._limit_s = limit_s
        self._tick_s = min(tick_s, limit_s)
        # In the order of arrival, which is the order in which they become due.
        self._since: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._reaper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        # Those whose time is over are still being answered.
        return len(self._since) + len(self._overdue)

    def enter(self, since_s: float) -> "asyncio.Task[Any]":
        """Start the clock of the current task, at this moment of the monotonic clock; `leave` stops it."""
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self._since[task] = since_s
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.get_running_loop().create_task(self._reap(), name="deadlines")
        return task

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """Stop the clock of a task."""
        self._since.pop(task, None)
        self._overdue.discard(task)

    def ended(self, task: "asyncio.Task[Any]") -> bool:
        """Whether it was the deadline that cancelled this task; if so, the task may go on and answer."""
        if task not in self._overdue:
            return False
        return task.uncancel() == 0

    async def _reap(self) -> None:
        """Runs while any task has a clock, so that an idle process has nothing to do."""
        while self._since:
            await asyncio.sleep(self._tick_s)
            latest = monotonic() - self._limit_s
            for task, since in list(self._since.items()):
                if since > latest:
                    break
                del self._since[task]
                self._overdue.add(task)
                task.cancel("the request's deadline")
