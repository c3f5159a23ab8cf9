"""Runs something until Ctrl-C, SIGTERM or a closed terminal, and lets it clean up."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Becomes set when the user wants us to end. Before `armed` the work itself is cancelled instead."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self._task = task
        self._event = asyncio.Event()
        self._armed = False
        self.interrupted = False

    def arm(self) -> None:
        """From now on a signal is a wish to stop, not an interruption of something unfinished."""
        self._armed = True

    async def wait(self) -> None:
        """Waits for the wish."""
        await self._event.wait()

    def signalled(self) -> None:
        """What every signal does; the second one of a kind changes nothing, stopping is under way."""
        if self._armed:
            self._event.set()
        elif not self.interrupted:
            self.interrupted = True
            self._task.cancel()


def run(work: Callable[[Stop], Awaitable[None]]) -> None:
    """Runs `work(stop)` in a new event loop. Raises KeyboardInterrupt if it was interrupted unfinished."""
    if asyncio.run(_supervise(work)):
        raise KeyboardInterrupt


async def _supervise(work: Callable[[Stop], Awaitable[None]]) -> bool:
    async def body() -> None:
        await work(stop)

    task = asyncio.create_task(body())
    stop = Stop(task)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.signalled)
    try:
        await task
    except asyncio.CancelledError:
        if not stop.interrupted:
            raise
    return stop.interrupted


async def first(*works: Awaitable[None]) -> None:
    """Waits until one of them ends, cancels the others, and raises what the one raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()
