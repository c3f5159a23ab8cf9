"""A fleet of processes of ours: orders go into its folder, and a supervisor of its own carries them out."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.ports import Endpoint
from finflow.stack import children
from finflow.stack.fleets import watching
from finflow.stack.fleets.folder import FleetFolder, FleetState, Mode, Order, Plan
from finflow.stack.fleets.slots import NOT_STARTED, hopeless
from finflow.stack.processes import alive, send

_POLL_S: Final = 0.02
_LAUNCH_TIMEOUT_S: Final = 30.0
_START_TIMEOUT_S: Final = 30.0
# On top of the time that the processes have to end.
_SLACK_S: Final = 15.0
_SUPERVISOR_LOG_LINES: Final = 3


class CommandFleet:
    """The fleet of one folder. Any number of these may look at one; it goes on when all of them are gone."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.folder = FleetFolder(root)
        self._plan = plan

    async def start(self, processes: int) -> None:
        """Have so many processes running. Raises fleet_conflict, fleet_environment and fleet_failed."""
        self.folder.create()
        self._refuse_another_plan()
        # The variables are looked for before anything is written.
        given = watching.passed_on(self._plan.environment_from)
        watching.environment(self._plan, given)
        if self.folder.plan() != self._plan:
            self.folder.write_plan(self._plan)
        order = await self._order("run", processes, self._plan.drain_s, given)
        done = await self._settled(order, _START_TIMEOUT_S + self._plan.drain_s)
        failed = [each.last_end for each in done.members if each.last_end.startswith(NOT_STARTED)]
        if failed:
            raise FinFlowError("fleet_failed", failed[0])

    async def ready(self, within_s: float) -> bool:
        """Whether all processes are ready; False early where they die again and again."""
        deadline = monotonic() + within_s
        await self._healed()
        while True:
            order, state = self.folder.order(), self.folder.state()
            if order is None or state is None or order.mode != "run":
                return False
            members = [each for each in state.members if each.number < order.processes]
            if state.settled and sum(each.ready for each in members) == order.processes:
                return True
            lost = any(hopeless(each.deaths_in_a_row) and not each.ready for each in members)
            if lost or monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)

    async def endpoints(self) -> Sequence[Endpoint]:
        """Where the processes that are ready answer."""
        await self._healed()
        state = self.folder.state()
        return [
            Endpoint(watching.HOST, each.port)
            for each in (state.members if state else [])
            if each.ready and each.process and alive(each.process)
        ]

    async def drain(self, within_s: float) -> bool:
        """Finish what is under way and take nothing new; False when something was cut off at the end."""
        if not self._something_runs():
            return True
        order = await self._order("drain", 0, within_s, {})
        return not (await self._settled(order, within_s + _SLACK_S)).cut

    async def stop(self) -> None:
        """End every process: SIGTERM, then, after `stop_timeout_s`, SIGKILL."""
        if self._something_runs():
            order = await self._order("stop", 0, 0.0, {})
            await self._settled(order, self._plan.stop_timeout_s + _SLACK_S)

    def state(self) -> FleetState | None:
        """What the supervisor says, for people: restarts, why processes ended, what was cut off."""
        return self.folder.state()

    def last_words(self) -> str:
        """Why the processes ended that did, as far as somebody knows, and the last line of their log."""
        state = self.folder.state()
        ends = [each for each in (state.members if state else []) if each.last_end]
        if not ends:
            return "no process has ended"
        path = self.folder.logs / f"process-{ends[0].number}.log"
        lines = children.tail(path).strip().splitlines() if path.exists() else []
        return f"{ends[0].last_end}: {lines[-1].strip()}" if lines else ends[0].last_end

    def _supervised(self) -> bool:
        state = self.folder.state()
        return state is not None and alive(state.supervisor)

    def _something_runs(self) -> bool:
        state = self.folder.state()
        left = state.members if state else []
        order = self.folder.order()
        # Ordered to run, it may have processes that its killed supervisor had no time to write down.
        running = order is not None and order.mode == "run"
        return running or self._supervised() or any(each.process and alive(each.process) for each in left)

    def _refuse_another_plan(self) -> None:
        there = self.folder.plan()
        if there and there != self._plan and self._something_runs():
            raise FinFlowError(
                "fleet_conflict",
                f"{self.folder.root} runs {there.release or there.command[0]} after another plan.",
            )

    async def _healed(self) -> None:
        """Starts the supervisor again where one should run and was killed; it adopts the processes."""
        order = self.folder.order()
        if order and order.mode == "run" and not self._supervised():
            await self._launch(self._given())

    async def _order(self, mode: Mode, processes: int, within_s: float, given: dict[str, str]) -> Order:
        order = self.folder.give(mode, processes, within_s)
        state = self.folder.state()
        if state and alive(state.supervisor):
            send(state.supervisor, signal.SIGHUP)
        else:
            await self._launch(given)
        return order

    async def _settled(self, order: Order, timeout_s: float) -> FleetState:
        """The state once the order, or a later one, has been carried out."""
        done = await self._until(lambda state: state.order >= order.number and state.settled, timeout_s)
        if order.mode != "run":
            await self._until(lambda state: not alive(state.supervisor) or state.mode == "run", _SLACK_S)
        return done

    async def _until(self, true: Callable[[FleetState], bool], timeout_s: float) -> FleetState:
        deadline = monotonic() + timeout_s
        while True:
            state = self.folder.state()
            if state and true(state):
                return state
            if monotonic() >= deadline:
                raise FinFlowError("fleet_failed", f"{self.folder.root}: not done within {timeout_s:.0f} s.")
            if not self._supervised():
                # It ended between our order and its last look, or was killed.
                await self._launch(self._given())
            await asyncio.sleep(_POLL_S)

    def _given(self) -> dict[str, str]:
        """The variables for new processes; none where all are to end."""
        order = self.folder.order()
        running = order is not None and order.mode == "run"
        return watching.passed_on(self._plan.environment_from) if running else {}

    async def _launch(self, given: dict[str, str]) -> None:
        """Starts a supervisor; returns when it, or another one, keeps the fleet. Raises fleet_failed."""
        program = [sys.executable, "-P", "-m", "finflow.stack.fleets.supervisor", str(self.folder.root)]
        if self._plan.release_folder:
            # Nobody reads it; it shows that the release is in use also while no process of it lives.
            program.append(self._plan.release_folder)
        passed = ("HOME", "USER", "LANG", "TZ", "PYTHONPATH", "VIRTUAL_ENV")
        own = {name: os.environ[name] for name in passed if name in os.environ}
        log_path = self.folder.logs / "supervisor.log"
        with children.open_log(log_path) as log:
            child = await asyncio.create_subprocess_exec(
                *program,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**children.plain_environment(), **own},
                start_new_session=True,
            )
        try:
            await asyncio.wait_for(child.communicate(msgspec.json.encode(given)), _LAUNCH_TIMEOUT_S)
        except TimeoutError as error:
            child.kill()
            await child.wait()
            raise FinFlowError("fleet_failed", f"The supervisor of {self.folder.root} hangs.") from error
        if child.returncode != 0:
            words = children.tail(log_path).strip().splitlines()[-_SUPERVISOR_LOG_LINES:]
            raise FinFlowError("fleet_failed", " ".join(words) or "The supervisor did not start.")
