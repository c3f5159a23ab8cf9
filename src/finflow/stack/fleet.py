"""N API workers on one port, each started again when it dies."""

import asyncio
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack import children, ports
from finflow.stack.processes import Process, identify
from finflow.stack.processes import children as child_pids

_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.02
# A worker that lived this long has earned an immediate restart.
_HEALTHY_S: Final = 10.0
_PAUSE_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0
# The last line of a traceback: ModuleNotFoundError: No module named ...
_EXCEPTION: Final = re.compile(r"[A-Za-z_.]+(Error|Exception)\b")

_log = logging.getLogger(__name__)


class _Line(msgspec.Struct):
    """What a line of a log says, if it is one of ours."""

    message: str
    error: str = ""


def _said(line: str) -> list[str]:
    """The lines of what a line says, without the frame of a group of exceptions."""
    try:
        found = msgspec.json.decode(line, type=_Line)
        line = f"{found.message}\n{found.error}"
    except msgspec.DecodeError:
        pass
    return [each.strip(" |") for each in line.splitlines()]


class Fleet:
    """Workers that serve `target` ("package.module:name") at the reserved port, with this environment.

    They write to the file `log`, or, where it is None, to our standard output.
    """

    def __init__(
        self,
        target: str,
        bound: socket.socket,
        workers: int,
        environment: Mapping[str, str],
        log: Path | None,
        on_change: Callable[[], None] = lambda: None,
        on_end: Callable[[int], None] = lambda status: None,
    ) -> None:
        self.host, self.port = bound.getsockname()[:2]
        self._target = target
        self._workers = workers
        self._environment = {**os.environ, **environment}
        self._log_path = log
        self._on_change = on_change
        self._on_end = on_end
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._log_start = 0
        self._deaths = 0

    @property
    def url(self) -> str:
        """Where the API answers."""
        return ports.url_of(self.host, self.port)

    @property
    def processes(self) -> list[Process]:
        """The supervising process of each worker that runs."""
        found = [identify(child.pid) for child in self._children.values() if child.returncode is None]
        return [process for process in found if process]

    @property
    def worker_pids(self) -> list[int]:
        """The numbers of the processes that answer requests."""
        return sorted(pid for process in self.processes for pid in child_pids(process.pid))

    async def start(self) -> None:
        """Returns when every worker listens and /readyz answers 200. Raises service_failed."""
        with children.open_log(self._log_path) as log:
            self._log_start = log.tell() if self._log_path else 0
        self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._workers)]
        deadline = monotonic() + _READY_TIMEOUT_S
        while not await self._ready():
            # Workers that cannot start die at once, again and again: no use in waiting the whole time.
            if monotonic() > deadline or self._deaths > 2 * self._workers:
                raise FinFlowError("service_failed", self._last_words())
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Lets requests under way finish, then ends every worker."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        signals = (signal.SIGTERM, signal.SIGKILL)
        running = list(self._children.values())
        await asyncio.gather(*(children.stop(child, signals, _STOP_TIMEOUT_S) for child in running))
        self._children.clear()

    async def _ready(self) -> bool:
        if ports.listening(self.port) < self._workers:
            return False
        return await ports.http_status(self.host, self.port, "/readyz") == 200

    def _last_words(self) -> str:
        if self._log_path is None:
            return "The workers said why on standard output."
        written = children.tail(self._log_path, self._log_start).splitlines()
        lines = [line for each in written for line in _said(each) if line]
        telling = [line for line in lines if _EXCEPTION.match(line)] or lines
        return telling[-1] if telling else f"No answer within {_READY_TIMEOUT_S:.0f} s."

    async def _keep(self, number: int) -> None:
        """Runs worker `number` for ever, with growing pauses while it dies young."""
        pause_s = _PAUSE_S
        while True:
            born = monotonic()
            child = await self._spawn()
            self._children[number] = child
            self._on_change()
            status = await child.wait()
            self._deaths += 1
            self._on_end(status)
            pause_s = _PAUSE_S if monotonic() - born > _HEALTHY_S else min(pause_s * 2, _PAUSE_MAX_S)
            _log.warning("worker ended", extra={"worker": number, "status": status, "again_in_s": pause_s})
            await asyncio.sleep(pause_s)

    async def _spawn(self) -> asyncio.subprocess.Process:
        # -P keeps the working directory out of the import path: what lies there is not ours.
        program = [sys.executable, "-P", "-m", "finflow.stack.serve", self._target, self.host, str(self.port)]
        with children.open_log(self._log_path) as log:
            return await children.spawn(
                children.command("same", signal.SIGTERM, *program), log, self._environment
            )
