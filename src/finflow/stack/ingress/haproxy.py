"""HAProxy in front of a service: a master, its workers, and a small process that keeps their log."""

import asyncio
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import HaproxySpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import Side
from finflow.stack.children import plain_environment
from finflow.stack.ingress import haproxy_config as written
from finflow.stack.ingress import sockets
from finflow.stack.ingress.folder import RouterState
from finflow.stack.ingress.local import LocalIngress
from finflow.stack.processes import send

_CONFIG: Final = "haproxy.cfg"
_MASTER: Final = "master.sock"
_KEEPER: Final = Path(__file__).with_name("keeper.py")
_LOG: Final = "traffic.log"
_LOG_BYTES: Final = 16 << 20
_LOGS_KEPT: Final = 4
_PIPE_BYTES: Final = 1 << 20
_RELOAD_S: Final = 15.0
_CHECK_S: Final = 20.0
_POLL_S: Final = 0.02
# The current worker, whatever its number.
_CURRENT: Final = "@1"
# Bits of srv_admin_state that keep requests away; bit 2 only remembers what the configuration said.
_KEPT_AWAY: Final = 0x7B


class _Place(msgspec.Struct, frozen=True):
    """A server of the configuration: its name, where it points, whether it is used."""

    name: str
    endpoint: Endpoint
    used: bool


class HaproxyIngress(LocalIngress[HaproxySpec]):
    """Weight and backends change over the master's socket, in every worker that still has connections."""

    program_name = "haproxy"
    signals = (signal.SIGUSR1, signal.SIGTERM)
    patience_s = 3.0
    traffic_files = _LOG
    sockets = 1
    backends_max = written.BACKENDS_MAX

    def program(self) -> Path:
        found = shutil.which(self.spec.program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if found is None:
            raise FinFlowError("ingress_missing", f"{self.spec.program} is not installed.", "program")
        return Path(found)

    def arguments(self) -> list[str]:
        return ["-W", "-S", f"unix@{_MASTER},mode,600", "-f", _CONFIG]

    def output(self, log: int) -> int:
        """A pipe to the process that keeps the log; both outlive us, and it ends with the last worker."""
        read, write = os.pipe()
        with suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._keeper = subprocess.Popen(  # noqa: S603 - a file of ours
                [sys.executable, "-I", "-S", str(_KEEPER), _LOG, str(_LOG_BYTES), str(_LOGS_KEPT)],
                cwd=self.folder.root,
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=plain_environment(),
                start_new_session=True,
            )
        finally:
            os.close(read)
        return write

    def configure(self, state: RouterState) -> None:
        """Checked by HAProxy itself before the one that runs is replaced."""
        self.folder.write(written.MAP, written.map_text(self.folder.weight()))
        # The inherited socket is not ours to show to the one that checks; it binds nothing.
        self.folder.write("checked.cfg", self._written(state, f"127.0.0.1:{state.port}"))
        done = subprocess.run(  # noqa: S603 - the program that the specification names
            [str(self.program()), "-c", "-f", "checked.cfg"],
            cwd=self.folder.root,
            capture_output=True,
            text=True,
            env=self._environment(),
            timeout=_CHECK_S,
            check=False,
        )
        if done.returncode != 0:
            raise FinFlowError("ingress_refused", self.explain(done.stderr.strip().splitlines() or [""]))
        self.folder.write(_CONFIG, self._written(state, f"fd@{state.descriptors[0]}"))

    def _written(self, state: RouterState, listener: str) -> str:
        backends, salt = self.folder.backends(), self.folder.salts()[0]
        proof, secret = self.folder.proof(), self.folder.tester_secret()
        return written.config(self.spec, state.reloads, listener, backends, salt, proof, secret)

    def explain(self, words: list[str]) -> str:
        alerts = [line for line in words if "[ALERT]" in line or "error" in line.lower()]
        return (alerts or words)[0][-500:]

    async def reloads(self) -> int:
        text = await self._ask(f"{_CURRENT} show env {written.RELOADS}")
        found = re.search(rf"{written.RELOADS}=(\d+)", text)
        if found is None:
            raise FinFlowError("ingress_refused", f"HAProxy answers {text[:200]!r}.")
        return int(found[1])

    async def load(self, state: RouterState) -> None:
        process = self.running()
        if process is None:
            raise FinFlowError("ingress_unreachable", f"No router runs in {self.folder.root}.")
        send(process, signal.SIGUSR2)
        deadline = monotonic() + _RELOAD_S
        while True:
            # While the master starts anew, its socket may refuse, or be answered by the one before.
            with suppress(FinFlowError):
                if await self.reloads() == state.reloads:
                    return
            if monotonic() > deadline:
                raise FinFlowError("ingress_refused", "HAProxy did not take the configuration in time.")
            await asyncio.sleep(_POLL_S)

    async def apply_weight(self, weight_bp: int) -> None:
        """First into the file that the next worker reads, then into those that run."""
        self.folder.write(written.MAP, written.map_text(weight_bp))
        await self._everywhere(f"set map {written.MAP} {written.MAP_KEY} {weight_bp}")

    async def apply_backends(self, side: Side) -> None:
        """New processes take places that nobody has, before the places of those that go are closed."""
        wanted = self.folder.backends()[side]
        for worker in await self._workers():
            places = await self._places(worker, side)
            present = {place.endpoint for place in places if place.used}
            free = [place for place in places if not place.used]
            for endpoint, place in zip([each for each in wanted if each not in present], free, strict=False):
                name = f"{side}/{place.name}"
                await self._tell(f"{worker} set server {name} addr {endpoint.host} port {endpoint.port}")
                await self._tell(f"{worker} set server {name} state ready")
            for place in places:
                if place.used and place.endpoint not in wanted:
                    await self._tell(f"{worker} set server {side}/{place.name} state maint")

    async def weight(self) -> int:
        text = await self._ask(f"{_CURRENT} show map {written.MAP}")
        found = re.search(rf"^\S+ {written.MAP_KEY} (\d+)$", text, re.MULTILINE)
        if found is None:
            raise FinFlowError("ingress_refused", f"HAProxy answers {text[:200]!r}.")
        return int(found[1])

    async def backends(self, side: Side) -> Sequence[Endpoint]:
        return [place.endpoint for place in await self._places(_CURRENT, side) if place.used]

    async def _places(self, worker: str, side: Side) -> list[_Place]:
        """The servers of a side; unused ones in the order in which they should be used next."""
        lines = (await self._ask(f"{worker} show servers state {side}")).splitlines()
        names = next((line[2:].split() for line in lines if line.startswith("# ")), [])
        rows = [dict(zip(names, line.split(), strict=False)) for line in lines if line[:1].isdigit()]
        found = [
            _Place(
                row["srv_name"],
                Endpoint(row["srv_addr"], int(row["srv_port"])),
                not int(row["srv_admin_state"]) & _KEPT_AWAY,
            )
            for row in rows
            if row.get("be_name") == side
        ]
        if not found:
            raise FinFlowError("ingress_refused", f"HAProxy shows no servers of the {side}.")
        nobody = written.NOBODY
        return sorted(found, key=lambda place: written.address(place.endpoint) != nobody)

    async def _workers(self) -> list[str]:
        """The current worker first, then those that still finish the connections of before a reload."""
        text = await self._ask("show proc")
        return [_CURRENT, *(f"@!{pid}" for pid in _old_workers(text))]

    async def _everywhere(self, command: str) -> None:
        for worker in await self._workers():
            await self._tell(f"{worker} {command}")

    async def _tell(self, command: str) -> None:
        """A command that answers nothing when it was obeyed, and may answer what it did."""
        text = (await self._ask(command)).strip()
        gone = "Can't find the target" in text and command.startswith("@!")
        if text and not gone and not text.startswith(("IP changed", "no need to change", "port changed")):
            raise FinFlowError("ingress_refused", f"HAProxy answers {text[:300]!r}.")

    async def _ask(self, command: str) -> str:
        return await sockets.command(self.folder.root, _MASTER, command)


def _old_workers(text: str) -> list[int]:
    """The numbers below the line "# old workers" of `show proc`."""
    _, _, old = text.partition("# old workers")
    found = []
    for line in old.splitlines():
        words = line.split()
        if line.startswith("#"):
            break
        if len(words) > 1 and words[0].isdigit() and words[1] == "worker":
            found.append(int(words[0]))
    return found
