"""The ingress of `finflow up`: clients before it, the workers behind it on a port of their own.

Its folder is that of the service `finflow` (DATA/ingress/finflow), so that a rollout of this service takes
its split over; what is set there stays when it is started again. It ends with the process that started it,
as the workers do.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any, Final, Literal

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import CaddySpec, HaproxySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack import ports
from finflow.stack.folder import DataFolder
from finflow.stack.ingress.caddy import CaddyIngress
from finflow.stack.ingress.local import LocalIngress
from finflow.stack.processes import Process

Kind = Literal["caddy", "haproxy"]

# What a rollout calls the service that `finflow up` runs.
SERVICE: Final = "finflow"
INNER_HOST: Final = "127.0.0.1"
_LOOK_S: Final = 0.2
_PAUSE_S: Final = 1.0

_log = logging.getLogger(__name__)


def chosen(setting: str) -> Kind | None:
    """What the setting `ingress` means on this machine; `auto` is Caddy where it is installed."""
    if setting == "auto":
        return "caddy" if Path(sys.executable).with_name("caddy").exists() or which("caddy") else None
    return "caddy" if setting == "caddy" else "haproxy" if setting == "haproxy" else None


class Front:
    """The router of one data folder, kept running between `start()` and `stop()`."""

    def __init__(self, kind: Kind, data: DataFolder, host: str, port: int) -> None:
        self.kind = kind
        self.ingress = _made(kind, host, port, data.root / "ingress" / SERVICE)
        self.ingress.dies_with_us = True
        self._keeper: asyncio.Task[None] | None = None

    @property
    def folder(self) -> Path:
        """Where its split lies; a rollout's SPEC names it."""
        return self.ingress.folder.root

    @property
    def proof(self) -> Path:
        """The file whose content shows the workers that a request came through here."""
        return self.ingress.folder.root / "proof"

    def prepare(self) -> None:
        """Makes the folder and the proof, which the workers read when they start."""
        self.ingress.folder.make_proof()

    @property
    def process(self) -> Process | None:
        """The router's process, or None."""
        return self.ingress.running()

    async def end_orphan(self) -> bool:
        """Ends a router that a crash has left; the caller holds the data folder's lock, so it is nobody's."""
        if not self.folder.is_dir() or self.ingress.running() is None:
            return False
        await self.ingress.stop()
        return True

    def inner_port(self) -> int:
        """Where the workers listen: where they did the last time, if that is free, because others know it."""
        before = self.ingress.folder.backends()[Side.BASELINE] if self.folder.is_dir() else ()
        for candidate in [each.port for each in before if each.host == INNER_HOST][:1]:
            try:
                ports.reserve(INNER_HOST, candidate).close()
            except FinFlowError:
                continue
            return candidate
        return ports.free(INNER_HOST)

    async def start(self, inner: Endpoint, on_change: Callable[[], None]) -> None:
        """Returns when it serves. Raises ingress_missing, ingress_failed, port_taken."""
        await self._forget_lost_candidate()
        await self.ingress.start(baseline=[inner])
        self._keeper = asyncio.create_task(self._keep(on_change))

    async def stop(self) -> None:
        """Takes nothing new, finishes what is under way, ends."""
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self.ingress.stop()

    async def _forget_lost_candidate(self) -> None:
        """A weight that an unfinished rollout has left stays only while there is a candidate to take it."""
        folder = self.ingress.folder
        folder.create()
        candidates = folder.backends()[Side.CANDIDATE]
        there = [await ports.takes_connections(each.host, each.port) for each in candidates]
        if folder.weight() and not any(there):
            _log.warning("no process of the candidate answers: all traffic goes to the workers")
            folder.write("weight", "0")

    async def _keep(self, on_change: Callable[[], None]) -> None:
        """Starts the router again whenever somebody kills it, with the split that it had."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self.ingress.running() is not None:
                continue
            _log.error("ingress ended", extra={"kind": self.kind})
            try:
                await self.ingress.start()
                on_change()
            except FinFlowError as error:
                _log.error("ingress does not start", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE_S)


def _made(kind: Kind, host: str, port: int, folder: Path) -> LocalIngress[Any]:
    if kind == "caddy":
        return CaddyIngress(CaddySpec(host=host, port=port), folder)
    from finflow.stack.ingress.haproxy import HaproxyIngress

    return HaproxyIngress(HaproxySpec(host=host, port=port), folder)
