"""The controller: one loop that asks the model what is next, writes it down, does it, writes what came."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, Final, TypeVar

import msgspec

from finflow.kernel.clock import system_clock
from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout import model
from finflow.rollout.fold import applied, folded
from finflow.rollout.lock import ServiceLock
from finflow.rollout.log import DecisionLog
from finflow.rollout.orders import OrderBox, Ordered
from finflow.rollout.ports import Notice
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Pending, Phase, State
from finflow.rollout.world import Hands, World, look_of

T = TypeVar("T")
log = logging.getLogger(__name__)

WHO: Final = "controller"
_ORDERS_EVERY_S: Final = 0.2
_CLOCK_STEP_S: Final = 2.0
_IMPACT_WITHIN_S: Final = 10.0
_NOTICE_WITHIN_S: Final = 180.0
_LAST_NOTICES_WITHIN_S: Final = 30.0


class Controller:
    """Carries one rollout on, from wherever its log says that it stands. The caller holds the lock."""

    def __init__(
        self,
        spec: RolloutSpec,
        world: World,
        decisions: DecisionLog,
        lock: ServiceLock,
        orders: OrderBox,
        heard: Callable[[e.Entry, State], None] = lambda entry, state: None,
    ) -> None:
        self._spec = spec
        self._world = world
        self._log = decisions
        self._lock = lock
        self._orders = orders
        self._heard = heard
        self._hands = Hands(spec, world)
        self.state = folded(decisions.entries)
        self._wake = asyncio.Event()
        self._abort = asyncio.Event()
        self._looked_at: float | None = None
        self._unwritten_s = 0.0
        self._checked_at: float | None = None
        self._failed_at: float | None = None
        self._wall_offset_s: float | None = None
        self._telling: dict[str, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[None]] = set()

    def append(self, told: e.Event, who: str = WHO) -> None:
        """One line; the state follows from it."""
        entry = self._log.append(who, told)
        self.state = applied(self.state, entry)
        self._heard(entry, self.state)

    async def run(self) -> Phase:
        """Until the end of the rollout. Raises rollout_fenced when another controller has taken over."""
        await self._take_over()
        # Before anything else is done: what waits may be an order to take the candidate back.
        self._take_up_waiting()
        ordering = asyncio.create_task(self._follow_orders())
        try:
            while (intended := model.next_(self._spec, self.state, self._since())) is not None:
                await self._unless_broken(ordering, self._act(intended))
            await self._tell_the_rest()
        except asyncio.CancelledError:
            self._leave()
            raise
        except FinFlowError as error:
            if error.kind.code == "log_unwritable":
                await self._emergency()
            raise
        finally:
            await _ended(ordering, *self._telling.values(), *self._aside)
        return self.state.phase

    async def _take_over(self) -> None:
        """The gates learn what the log knows, and the epoch says that somebody else decides from here on."""
        for entry in self._log.entries:
            if isinstance(entry.told, e.Looked):
                self._world.judge.look(look_of(entry.told))
        if not self.state.ended:
            self.append(e.TookOver(self.state.epoch + 1, os.getpid(), socket.gethostname()))
        if not self.state.ended and self.state.phase is not Phase.PREPARING:
            # A router that died with the machine comes back as it was; what is wrong with it, the looks say.
            with contextlib.suppress(FinFlowError, TimeoutError, OSError):
                await self._hands.open_ingress()

    def _leave(self) -> None:
        if not self.state.ended:
            with contextlib.suppress(FinFlowError):
                self.append(e.Left("the controller was told to end; the split stays as it is"))

    async def _emergency(self) -> None:
        """What cannot be written down must not go on: without a log, the baseline serves everybody."""
        if self._lock.held() and not self.state.ended and self.state.phase is not Phase.PROMOTING:
            log.error("the decision log cannot be written: the weight is set to 0")
            with contextlib.suppress(FinFlowError, TimeoutError, OSError):
                async with asyncio.timeout(15):
                    await self._world.ingress.set_weight(0)

    async def _unless_broken(self, ordering: "asyncio.Task[None]", work: Coroutine[Any, Any, None]) -> None:
        """Orders that can no longer be followed end the controller like everything else that breaks."""
        task = asyncio.ensure_future(work)
        await self._first_of(task, ordering)
        if ordering.done():
            task.cancel()
            await _ended(task)
            ordering.result()
        await task

    @staticmethod
    async def _first_of(*tasks: "asyncio.Future[Any]") -> None:
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            tasks[0].cancel()
            await _ended(tasks[0])
            raise

    def _since(self) -> model.Since:
        now = monotonic()
        look, checks, failure = (
            None if at is None else now - at for at in (self._looked_at, self._checked_at, self._failed_at)
        )
        return model.Since(look, checks, failure)

    # --- acting -------------------------------------------------------------------------------------------

    async def _act(self, intended: model.Next) -> None:
        self._wake.clear()
        self._tell()
        match intended:
            case model.Wait(seconds=seconds):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), max(seconds, 0.001))
            case model.Look():
                await self._look()
            case model.Decide(decided=decided):
                self.append(decided)
                self._measure_impact()
            case model.Finish(finished=finished):
                self.append(finished)
            case e.AskChecks():
                await self._ask(intended)
            case _:
                await self._carry_out(intended)

    async def _carry_out(self, intent: e.Intent) -> None:
        """Written before, done, written after. An order to abort cuts off whatever may be cut off."""
        self.append(e.Intended(intent))
        self._refuse_without_lock()
        doing = self._hands.do(intent, self.state.approvals, None)
        steady = isinstance(intent, e.TakeBack | e.Swap | e.Drain | e.Stop)
        done = await doing if steady else await self._unless_aborted(doing)
        if done is None:
            return
        if not done.ok:
            self._failed_at = monotonic()
        self.append(done)

    async def _ask(self, intent: e.AskChecks) -> None:
        """Checks take their time: whoever is on the candidate meanwhile is looked after."""
        since_s = self._since().checks_s
        asking = asyncio.ensure_future(self._hands.do(intent, self.state.approvals, since_s))
        try:
            while not asking.done():
                self._wake.clear()
                woken = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait(
                        (asking, woken), timeout=self._until_look_s(), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    woken.cancel()
                if not asking.done() and self.state.weight_bp > 0 and self._until_look_s() == 0:
                    await self._look()
                following = model.next_(self._spec, self.state, self._since())
                if not asking.done() and following != intent and not isinstance(following, model.Look):
                    return
            self._checked_at = monotonic()
            self.append(asking.result())
        finally:
            await _ended(asking)

    def _until_look_s(self) -> float | None:
        if self.state.weight_bp == 0:
            return None
        since_s = self._since().look_s
        return 0.0 if since_s is None else max(0.0, self._spec.policy.look_every_s - since_s)

    def _refuse_without_lock(self) -> None:
        if not (self._lock.held() and self._log.owned()):
            raise FinFlowError("rollout_fenced", "This controller's lock is gone: it does nothing more.")

    async def _unless_aborted(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What it came to, or None where somebody ordered to abort meanwhile."""
        task = asyncio.ensure_future(work)
        abort = asyncio.ensure_future(self._abort.wait())
        try:
            await self._first_of(task, abort)
            if task.done():
                return task.result()
            return None
        finally:
            task.cancel()
            abort.cancel()
            await _ended(task, abort)

    async def _look(self) -> None:
        state, now = self.state, monotonic()
        self._refuse_without_lock()
        if changed := await self._hands.reconnected():
            self.append(e.Noted("backends", f"processes came back elsewhere: {', '.join(changed)}"))
        delta_s = 0.0 if self._looked_at is None else now - self._looked_at
        delta_s = self._unwritten_s + model.judged_s(self._spec, delta_s)
        looked = await self._unless_aborted(
            self._hands.look(state.serving_step, state.weight_bp, state.scaled, delta_s)
        )
        self._looked_at = now
        if looked is not None:
            worth = model.worth_a_line(self._spec, self.state, looked)
            self._unwritten_s = 0.0 if worth else delta_s
            if worth:
                self.append(looked)
        self._watch_clock()

    def _watch_clock(self) -> None:
        """Bakes are counted by a clock that nobody sets; a jump of the other one is worth a line."""
        offset_s = system_clock() / 1e6 - monotonic()
        known, self._wall_offset_s = self._wall_offset_s, offset_s
        if known is not None and abs(offset_s - known) > _CLOCK_STEP_S:
            words = f"the machine's clock jumped by {offset_s - known:+.1f} s; nothing is counted by it"
            self.append(e.Noted("clock", words, {"jump_s": round(offset_s - known, 3)}))

    # --- orders -------------------------------------------------------------------------------------------

    async def _follow_orders(self) -> None:
        while True:
            self._take_up_waiting()
            await asyncio.sleep(_ORDERS_EVERY_S)

    def _take_up_waiting(self) -> None:
        for order in self._orders.waiting():
            self._take_up(order)
            self._orders.forget(order.order_id)

    def _take_up(self, order: Ordered) -> None:
        if order.order_id in self.state.orders:
            return
        mine = order.rollout_id == self.state.rollout_id
        refusal = model.refusal(self.state, order.order) if mine else "it was meant for another rollout"
        told = e.Ordered(order.order, order.order_id, not refusal, refusal or order.reason)
        if not (self.state.ended and refusal):
            self.append(told, order.who)
        if self.state.phase is Phase.ABORTING:
            self._abort.set()
        self._wake.set()

    # --- beside the loop ----------------------------------------------------------------------------------

    def _measure_impact(self) -> None:
        radius = self._world.blast_radius
        if radius is not None and self.state.first_served_at:
            self._beside(
                self._impact(radius.impact(self.state.candidate, self.state.first_served_at, self.state.at))
            )

    async def _impact(self, asked: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(_IMPACT_WITHIN_S):
                found = await asked
        except (FinFlowError, TimeoutError, OSError) as error:
            self.append(e.Noted("impact_unknown", f"what the candidate touched is not known: {error}"))
            return
        words = (
            f"{self.state.candidate} touched {found.customers} customers in {found.transactions} transactions"
        )
        self.append(e.Noted("impact", words, msgspec.to_builtins(found)))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _tell(self) -> None:
        for pending in self.state.pending:
            if pending.key not in self._telling:
                self._telling[pending.key] = asyncio.create_task(self._deliver(pending))

    async def _deliver(self, pending: Pending) -> None:
        try:
            async with asyncio.timeout(_NOTICE_WITHIN_S):
                await self._world.notifier.notify(self._notice(pending))
        except (FinFlowError, TimeoutError, OSError) as error:
            self.append(e.Notified(pending.key, False, str(error) or "no answer in time"))
        else:
            self.append(e.Notified(pending.key, True))

    def _notice(self, pending: Pending) -> Notice:
        state = self.state
        facts = {
            "key": pending.key,
            "baseline": state.baseline,
            "candidate": state.candidate,
            "phase": state.phase.value,
            "weight_percent": state.weight_bp / 100,
            "step": state.step + 1,
            "log_head": self._log.head,
            "impact": state.impact,
        }
        words = f"{state.service}: {pending.words}"
        return Notice(state.rollout_id, state.service, pending.event, words, pending.at, facts)

    async def _tell_the_rest(self) -> None:
        """The end is told before the controller goes; what cannot be told by then is told by the next."""
        self._tell()
        waiting = [*self._telling.values(), *self._aside]
        if waiting:
            await asyncio.wait(waiting, timeout=_LAST_NOTICES_WITHIN_S)


async def _ended(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
