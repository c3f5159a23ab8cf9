"""A router on this machine: a process of its own that outlives whoever started it, and can be found again."""

import asyncio
import fcntl
import os
import re
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ingress_spec import LocalSpec
from finflow.rollout.ports import Endpoint
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Side
from finflow.stack.children import command, open_log, plain_environment, tail
from finflow.stack.ingress.folder import Backends, RouterFolder, RouterState
from finflow.stack.ingress.sockets import listening
from finflow.stack.ingress.traffic import Tally, TrafficFile
from finflow.stack.ports import url_of
from finflow.stack.processes import Process, alive, identify, send, wait_gone, working_in

_READY_S: Final = 15.0
_POLL_S: Final = 0.02
# Above what the process opens by itself before it looks at them.
_FIRST_DESCRIPTOR: Final = 200
# What may stand in a configuration as a host, whatever its language.
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


SpecT = TypeVar("SpecT", bound=LocalSpec)


class LocalIngress(ABC, Generic[SpecT]):
    """What Caddy and HAProxy have in common. The folder says everything; this object only acts on it."""

    # The name of the program's file; what makes it finish its requests and end, and how long that may take.
    program_name: str
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    patience_s: float
    # Whether the router ends when the process that has started it does; a rollout's must not.
    dies_with_us = False
    # The name of its log, and how many sockets it inherits, each under two numbers.
    traffic_files: str
    sockets: int
    backends_max: int

    def __init__(self, spec: SpecT, folder: Path) -> None:
        self.spec = spec
        self.folder = RouterFolder(folder)
        self._child: subprocess.Popen[bytes] | None = None
        self._tally = Tally(self.folder.root, self.traffic_files)
        self.traffic = TrafficFile(self.folder.root, self.traffic_files)

    def override(self, side: Side, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The headers by which a tester chooses a side."""
        header, variable = self.spec.override_header, self.spec.override_secret_env
        secret = self.folder.tester_secret() if variable is None else environ.get(variable, "")
        return {header: str(side), f"{header}-Secret": secret}

    # --- running ---

    @property
    def port(self) -> int:
        """Where it listens; 0 before the first start."""
        state = self.folder.state()
        return state.port if state else self.spec.port

    @property
    def url(self) -> str:
        return url_of(self.spec.host, self.port)

    def running(self) -> Process | None:
        """The router's process, also where somebody else started it; None if there is none."""
        if self._child is not None:
            self._child.poll()
        state = self.folder.state()
        if state and state.process:
            return state.process if alive(state.process) else None
        # Whoever started it may have been killed before writing down that it had.
        return min(self._found(), key=lambda each: (each.started, each.pid), default=None)

    def _found(self) -> list[Process]:
        """Every process of the program that works in the folder."""
        return working_in(self.folder.root, self.program_name) if self.folder.root.exists() else []

    async def start(
        self, baseline: Sequence[Endpoint] | None = None, candidate: Sequence[Endpoint] | None = None
    ) -> None:
        """Have the router running with this specification: finds the one that runs, or starts it again with
        the weight and the backends that it had, unless others are given here.
        """
        given = {Side.BASELINE: baseline, Side.CANDIDATE: candidate}
        async with self.folder.locked():
            process = self.running()
            if process is None:
                await self._launch({side: each for side, each in given.items() if each is not None})
                return
            await self._adopt(process)
        for side, endpoints in given.items():
            if endpoints is not None:
                await self.set_backends(side, endpoints)

    async def stop(self) -> None:
        """Finish what is under way, then end; nothing happens where it does not run."""
        async with self.folder.locked():
            process = self.running()
            if process is not None:
                for number in (*self.signals, signal.SIGKILL):
                    send(process, number)
                    if await self._gone(process, self.patience_s):
                        break
            state = self.folder.state()
            if state is not None:
                self.folder.write_state(msgspec.structs.replace(state, process=None))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _gone(self, process: Process, timeout_s: float) -> bool:
        waiting = asyncio.ensure_future(wait_gone([process], timeout_s))
        while not waiting.done():
            # Our own child stays a zombie until somebody asks for its status.
            if self._child is not None:
                self._child.poll()
            await asyncio.sleep(_POLL_S)
        return waiting.result()

    async def _launch(self, given: Backends) -> None:
        environment = self._environment()
        program = self.program()
        await self._end_leftovers()
        self.folder.write_backends({**self.folder.backends(), **given})
        before = self.folder.state()
        port = self.spec.port or (before.port if before else 0)
        with ExitStack() as served:
            sockets = listening(self.spec.host, port, self.sockets)
            for each in sockets:
                served.enter_context(each)
            descriptors = tuple(_high(each, served) for each in sockets for _ in range(2))
            state = RouterState(sockets[0].getsockname()[1], self._plain_spec(), descriptors=descriptors)
            self.configure(state)
            self._spawn(program, state, environment)
        await self._until_ready()

    async def _end_leftovers(self) -> None:
        """Workers whose master was killed end by themselves, a little later; nobody waits for them."""
        left = self._found()
        for process in left:
            send(process, signal.SIGKILL)
        await wait_gone(left, self.patience_s)

    def _spawn(self, program: Path, state: RouterState, environment: Mapping[str, str]) -> None:
        # Not by asyncio, which kills a child whose object is forgotten: this one is to outlive us.
        with open_log(self.folder.root / "start.log") as log:
            output = self.output(log.fileno())
            # Without a process: if we are killed right after the next step, it is looked for.
            self.folder.write_state(state)
            try:
                self._child = subprocess.Popen(  # noqa: S603 - the router's program, as the specification says
                    self._command(program),
                    cwd=self.folder.root,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=log,
                    env=dict(environment),
                    pass_fds=state.descriptors,
                    start_new_session=True,
                )
            finally:
                os.close(output)
        self.folder.write_state(msgspec.structs.replace(state, process=identify(self._child.pid)))

    def _command(self, program: Path) -> list[str]:
        line = [str(program), *self.arguments()]
        return command("same", self.signals[0], *line) if self.dies_with_us else line

    async def _adopt(self, process: Process) -> None:
        """Another router than the specification says is changed while it runs; its address cannot be."""
        state = self.folder.state()
        if state is None:
            raise FinFlowError(
                "ingress_failed", f"{self.folder.root}: router.json is lost; end {process.pid}."
            )
        if state.process != process:
            state = msgspec.structs.replace(state, process=process)
            self.folder.write_state(state)
        await self._until_ready()
        if self.spec.host != state.spec["host"] or self.spec.port not in (0, state.port):
            running = f"{state.spec['host']}:{state.port}"
            raise FinFlowError("ingress_refused", f"The router listens on {running}; stop it first.", "port")
        if state.spec != self._plain_spec():
            await self._reloaded(msgspec.structs.replace(state, spec=self._plain_spec()))

    def _plain_spec(self) -> dict[str, object]:
        """What a router would have to be reloaded for; its port, asked for or found, is no part of it."""
        plain: dict[str, object] = msgspec.to_builtins(self.spec)
        del plain["port"]
        return plain

    async def _until_ready(self) -> None:
        deadline = monotonic() + _READY_S
        while True:
            with suppress(FinFlowError):
                await self.weight()
                return
            ended = self.running() is None
            if ended or monotonic() > deadline:
                words = tail(self.folder.root / "start.log").strip().splitlines()
                reason = self.explain(words) if words else "It says nothing."
                raise FinFlowError("ingress_failed", reason if ended else f"No answer in time. {reason}")
            await asyncio.sleep(_POLL_S)

    def _environment(self) -> dict[str, str]:
        """What the router may know of our environment: the testers' secret, if there is one."""
        name = self.spec.override_secret_env
        if name is None:
            return plain_environment()
        if not os.environ.get(name):
            raise FinFlowError("setting_malformed", f"{name} is not set.", name)
        return plain_environment() | {name: os.environ[name]}

    async def reload(self) -> None:
        async with self.folder.locked():
            await self._reloaded(self._state())

    async def _reloaded(self, state: RouterState) -> None:
        fresh = msgspec.structs.replace(state, reloads=await self.reloads() + 1)
        self.configure(fresh)
        await self.load(fresh)
        self.folder.write_state(fresh)

    def _state(self) -> RouterState:
        state = self.folder.state()
        if state is None or self.running() is None:
            raise FinFlowError("ingress_unreachable", f"No router runs in {self.folder.root}.")
        return state

    # --- the split ---

    async def set_weight(self, weight_bp: int) -> None:
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            raise FinFlowError("ingress_refused", f"{weight_bp} is not 0 to {FULL_WEIGHT_BP}.", "weight_bp")
        async with self._changing():
            if weight_bp and not self.folder.backends()[Side.CANDIDATE]:
                raise FinFlowError("ingress_refused", "The candidate has no processes.", "weight_bp")
            self.folder.write("weight", str(weight_bp))
            await self.apply_weight(weight_bp)
            if (found := await self.weight()) != weight_bp:
                raise FinFlowError("ingress_refused", f"The router has {found} instead of {weight_bp}.")

    async def set_backends(self, side: Side, endpoints: Sequence[Endpoint]) -> None:
        wanted = tuple(dict.fromkeys(endpoints))
        self.check(wanted)
        async with self._changing():
            if (
                not wanted
                and self.folder.backends()[side]
                and (side is Side.BASELINE or self.folder.weight())
            ):
                raise FinFlowError("ingress_refused", f"The {side} is sent requests.", "endpoints")
            self.folder.write_backends(self.folder.backends() | {side: wanted})
            await self.apply_backends(side)
            if sorted(await self.backends(side)) != sorted(wanted):
                raise FinFlowError("ingress_refused", f"The router has other backends of the {side}.")

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        async with self.folder.locked():
            self._state()
            yield

    async def routed(self) -> Mapping[Side, int]:
        self._state()
        return self._tally.counted()

    def check(self, endpoints: Sequence[Endpoint]) -> None:
        """Raises ingress_refused for addresses that cannot be, or are too many."""
        if len(endpoints) > self.backends_max:
            raise FinFlowError(
                "ingress_refused", f"At most {self.backends_max} processes on a side.", "endpoints"
            )
        for each in endpoints:
            if not 0 < each.port < 65_536 or not _HOST.fullmatch(each.host):
                raise FinFlowError("ingress_refused", f"{each.host}:{each.port} is no address.", "endpoints")

    # --- what each router does its own way ---

    @abstractmethod
    def program(self) -> Path:
        """The router's program. Raises ingress_missing."""

    @abstractmethod
    def arguments(self) -> list[str]:
        """What the program is started with, in its folder."""

    def output(self, log: int) -> int:
        """Where its standard output goes: a descriptor for us to close."""
        return os.dup(log)

    @abstractmethod
    def configure(self, state: RouterState) -> None:
        """Writes the configuration that the next start or load() reads."""

    async def reloads(self) -> int:
        """How often the running router was reloaded."""
        return self._state().reloads

    @abstractmethod
    async def load(self, state: RouterState) -> None:
        """Has the running router read its configuration."""

    def explain(self, words: list[str]) -> str:
        """The line of its log that says why it did not start."""
        return words[-1][-500:]

    @abstractmethod
    async def apply_weight(self, weight_bp: int) -> None:
        """Brings the weight, which stands on the disk, into force."""

    @abstractmethod
    async def apply_backends(self, side: Side) -> None:
        """Brings the backends of a side, which stand on the disk, into force."""

    @abstractmethod
    async def weight(self) -> int: ...

    @abstractmethod
    async def backends(self, side: Side) -> Sequence[Endpoint]: ...


def _high(served: socket.socket, kept: ExitStack) -> int:
    """A number for the socket that no program takes for a file of its own."""
    handle = fcntl.fcntl(served, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    kept.callback(os.close, handle)
    return handle
