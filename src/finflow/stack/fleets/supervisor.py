"""`python -P -m finflow.stack.fleets.supervisor FOLDER`: keeps the processes of a fleet as ordered.

It leaves the terminal and the session of whoever starts it, and lives exactly as long as there is something
to keep: after a drain or a stop it ends. Killed, it leaves its processes serving; the next one adopts them.
The variables that the processes are given come by standard input, so that they stand in no command line,
in no file and not in our own environment.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.stack import children, ports, processes
from finflow.stack.fleets import watching
from finflow.stack.fleets.folder import (
    MAX_EVENTS,
    Cut,
    Event,
    FleetFolder,
    FleetState,
    Member,
    Order,
    Plan,
)
from finflow.stack.fleets.slots import NOT_STARTED, Act, Slot, decide, ended, looked, reason_to_end, wanted
from finflow.stack.processes import Process, identify

MARK: Final = "FINFLOW_FLEET"
NUMBER: Final = "FINFLOW_FLEET_PROCESS"
PORT: Final = "FINFLOW_FLEET_PORT"

_TICK_S: Final = 0.1
_LOOK_SOON_S: Final = 0.05
_LOOK_AGAIN_S: Final = 1.0
_MEASURE_S: Final = 1.0
_PASSED_ON_MAX_BYTES: Final = 1 << 20

_log = logging.getLogger(__name__)


class Supervisor:
    """Observes, decides, acts, ten times a second and whenever somebody says that there is something new."""

    def __init__(self, folder: FleetFolder, plan: Plan, passed_on: dict[str, str]) -> None:
        self._folder = folder
        self._plan = plan
        self._passed_on = passed_on
        self._order = folder.order() or Order(0, "stop", 0, 0.0)
        self._slots: dict[int, Slot] = {}
        self._ours: dict[int, subprocess.Popen[bytes]] = {}
        self._looking: dict[int, asyncio.Task[None]] = {}
        self._measured_s = 0.0
        self._cut: list[Cut] = []
        self._ends: Counter[str] = Counter()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._nudge = asyncio.Event()
        self._told_to_end = False
        self._written: bytes = b""
        me = identify(os.getpid())
        assert me is not None, "this process runs"
        self._me = me

    def nudge(self) -> None:
        """There is something new: a signal, a child's end, an order."""
        self._nudge.set()

    def end(self) -> None:
        """SIGTERM: drain the processes and end; the order stays, so that whoever comes next fulfils it."""
        self._told_to_end = True
        self._nudge.set()

    def adopt(self) -> None:
        """Takes over what an earlier supervisor left: the processes of its state, and those with our mark.

        The mark also finds one that was started right before the end, too late for the state.
        """
        state = self._folder.state()
        if state:
            self._ends.update(state.ends)
            self._events.extend(state.events)
            self._cut = list(state.cut) if state.order == self._order.number else []
        for member in state.members if state else []:
            if member.process and processes.alive(member.process):
                self._adopted(member.number, member.process, member.port, member.starts, member.ready)
        marked = processes.with_variable(MARK, str(self._folder.root))
        for pid, variables in marked.items():
            process, number = identify(pid), int(variables.get(NUMBER, "0"))
            # What our processes have started bears the mark too.
            first = process in processes.session(pid) and processes.parent(pid) not in marked
            if process and first and number not in self._slots:
                self._adopted(number, process, int(variables.get(PORT, "0")), 1, ready=False)

    def _adopted(self, number: int, process: Process, port: int, starts: int, ready: bool) -> None:
        """Whoever was ready stays so until the next look, because the ingress goes by it."""
        now_s = monotonic()
        slot = Slot(number, port, process, ready, ready, born_s=now_s, answered_s=now_s, starts=starts)
        self._slots[number] = slot
        self._note(slot, "adopted", f"process {process.pid} of an earlier supervisor")

    async def run(self) -> None:
        """Returns when nothing is left to keep."""
        while True:
            try:
                if self._step():
                    return
            except (OSError, FinFlowError):
                # A full disk or table of processes must not end what keeps a fleet alive.
                _log.exception("a step failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), _TICK_S)
            self._nudge.clear()

    def _step(self) -> bool:
        """One round; True when it was the last."""
        gone = not self._folder.lock_file.exists()
        self._read_order(gone)
        if self._order.mode == "run" and set(self._plan.environment_from) - set(self._passed_on):
            # Started to end processes, we were given no variables for new ones: somebody else must come.
            return True
        now_s = monotonic()
        self._reap(now_s)
        self._measure(now_s)
        for number in range(self._order.processes if self._order.mode == "run" else 0):
            self._slots.setdefault(number, Slot(number))
        for slot in list(self._slots.values()):
            self._do(slot, decide(slot, self._order, self._plan, now_s), now_s)
            self._look(slot, now_s)
        if not gone:
            self.write()
        return not self._slots and self._order.mode != "run"

    def _read_order(self, gone: bool) -> None:
        """The newest order; that of a folder that was removed, or of a signal, is to end everything."""
        order = self._folder.order()
        if gone:
            self._order = Order(self._order.number, "stop", 0, 0.0)
        elif self._told_to_end:
            self._order = Order(self._order.number, "drain", 0, self._plan.drain_s)
        elif order and order.number > self._order.number:
            self._order, self._cut = order, []

    def _reap(self, now_s: float) -> None:
        for slot in self._slots.values():
            process = slot.process
            child = self._ours.get(process.pid) if process else None
            status = child.poll() if child else None
            if process is None or (processes.alive(process) and status is None):
                continue
            how = slot.ending_for or _how(child, status)
            self._ends[how] += 1
            # What it had started goes with it; it may hold the port.
            self._kill_session(process.pid)
            self._ours.pop(process.pid, None)
            if task := self._looking.pop(slot.number, None):
                task.cancel()
            words = f"{how}: {_status(status)}" if slot.ending_for else _status(status)
            ended(slot, words, now_s)
            self._note(slot, "ended", words)

    def _measure(self, now_s: float) -> None:
        if now_s - self._measured_s < _MEASURE_S:
            return
        self._measured_s = now_s
        sizes = processes.resident_bytes()
        for slot in self._slots.values():
            if slot.process:
                slot.resident_bytes = sizes.get(slot.process.pid, 0)
            watching.bound_log(self._log_of(slot))

    def _do(self, slot: Slot, act: Act, now_s: float) -> None:
        if act is Act.START:
            self._start(slot, now_s)
        elif act is Act.FORGET:
            del self._slots[slot.number]
        elif act is Act.END and slot.process:
            slot.ending_s = now_s
            slot.ending_for = reason_to_end(slot, self._order, self._plan, now_s)
            processes.send(slot.process, signal.SIGTERM)
        elif act is Act.KILL and slot.process:
            slot.killed = True
            if slot.ending_for in ("drain", "scale"):
                self._cut.append(Cut(slot.number, ports.connected(slot.port)))
            self._kill_session(slot.process.pid)

    def _start(self, slot: Slot, now_s: float) -> None:
        slot.port = slot.port or ports.free(watching.HOST)
        slot.starts += 1
        slot.born_s = slot.answered_s = now_s
        try:
            child = self._spawn(slot)
        except (OSError, FinFlowError) as error:
            words = error.detail if isinstance(error, FinFlowError) else f"{error.filename}: {error.strerror}"
            self._ends[NOT_STARTED] += 1
            ended(slot, f"{NOT_STARTED}: {words}", now_s)
            self._note(slot, "ended", slot.last_end)
            return
        self._ours[child.pid] = child
        slot.process, slot.last_end = identify(child.pid) or Process(child.pid, 0), ""
        self._note(slot, "started", f"process {child.pid} on port {slot.port}")

    def _spawn(self, slot: Slot) -> "subprocess.Popen[bytes]":
        values = {"{port}": str(slot.port), "{number}": str(slot.number)}
        command = [_filled(word, values) for word in self._plan.command]
        environment = {
            **watching.environment(self._plan, self._passed_on),
            MARK: str(self._folder.root),
            NUMBER: str(slot.number),
            PORT: str(slot.port),
            self._plan.port_variable: str(slot.port),
        }
        with children.open_log(self._log_of(slot)) as log:
            return subprocess.Popen(  # noqa: S603 - the command is the operator's own
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._plan.working_folder,
                start_new_session=True,
            )

    def _look(self, slot: Slot, now_s: float) -> None:
        """Has a readiness look under way for each process that runs, never two."""
        if slot.process and slot.number not in self._looking:
            task = asyncio.create_task(self._look_at(slot, slot.process))
            self._looking[slot.number] = task

    async def _look_at(self, slot: Slot, process: Process) -> None:
        try:
            status = await watching.look(self._plan, slot.port)
            if slot.process == process:
                self._saw(slot, status)
            await asyncio.sleep(_LOOK_AGAIN_S if slot.ready else _LOOK_SOON_S)
        finally:
            if self._looking.get(slot.number) is asyncio.current_task():
                del self._looking[slot.number]

    def _saw(self, slot: Slot, status: int | None) -> None:
        if looked(slot, status, self._plan, monotonic()):
            words = f"the check answers {status or 'nothing'}"
            self._note(slot, "ready" if slot.ready else "unready", words)
            self.nudge()

    def _kill_session(self, leader: int) -> None:
        for process in processes.session(leader):
            processes.send(process, signal.SIGKILL)

    def _log_of(self, slot: Slot) -> Path:
        return self._folder.logs / f"process-{slot.number}.log"

    def _note(self, slot: Slot, what: str, words: str) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._events.append(Event(at, slot.number, what, words))
        _log.info("%s process %d %s: %s", at, slot.number, what, words)

    def _settled(self) -> bool:
        """Whether the order was carried out: each wanted process has been started, no other one is left."""
        unwanted = any(slot.process and not wanted(slot, self._order) for slot in self._slots.values())
        started = all(slot.starts for slot in self._slots.values() if wanted(slot, self._order))
        return started and not unwanted

    def write(self) -> None:
        """Says in the folder what is, if that has changed."""
        state = FleetState(
            supervisor=self._me,
            plan=self._plan.digest,
            order=self._order.number,
            mode=self._order.mode,
            settled=self._settled(),
            members=[_member(slot) for _, slot in sorted(self._slots.items())],
            cut=self._cut,
            ends=dict(self._ends),
            events=list(self._events),
        )
        encoded = msgspec.json.encode(state)
        if encoded != self._written:
            self._folder.write_state(state)
            self._written = encoded


def _member(slot: Slot) -> Member:
    # Rounded, so that a state is not written anew for each page that a process takes.
    resident = round(slot.resident_bytes, -6)
    return Member(
        slot.number,
        slot.process,
        slot.port,
        slot.ready and not slot.ending_for,
        slot.starts,
        slot.deaths_in_a_row,
        resident,
        slot.last_end,
        slot.ending_for,
    )


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _how(child: "subprocess.Popen[bytes] | None", status: int | None) -> str:
    if child is None or status is None:
        return "lost"
    return "killed" if status < 0 else "failed" if status else "ended"


def _status(status: int | None) -> str:
    if status is None:
        return "gone; its status is unknown, another supervisor had started it"
    return f"killed by signal {-status}" if status < 0 else f"ended with status {status}"


async def supervise(folder: FleetFolder, passed_on: dict[str, str], said: int) -> None:
    """Runs the fleet of this folder, whose lock the caller holds; says so on `said` once it does."""
    plan = folder.plan()
    if plan is None:
        raise FinFlowError("fleet_failed", f"{folder.root} has no plan that can be read.")
    supervisor = Supervisor(folder, plan, passed_on)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGCHLD):
        loop.add_signal_handler(number, supervisor.nudge)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.end)
    supervisor.adopt()
    supervisor.write()
    os.write(said, b"1")
    os.close(said)
    await supervisor.run()


def main(root: str) -> int:
    """Returns in the process that was started; its child, in a session of its own, goes on alone."""
    folder = FleetFolder(Path(root))
    passed_on = msgspec.json.decode(sys.stdin.buffer.read(_PASSED_ON_MAX_BYTES), type=dict[str, str])
    heard, said = os.pipe()
    if os.fork():
        os.close(said)
        return 0 if os.read(heard, 1) == b"1" else 1
    os.close(heard)
    os.setsid()
    lock = folder.lock()
    if lock is None:
        # Another one keeps this fleet: as good as we.
        os.write(said, b"1")
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    asyncio.run(supervise(folder, passed_on, said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
