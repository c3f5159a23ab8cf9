"""What a supervisor does about each of its processes: values in, an act out; it looks at nothing itself."""

from enum import Enum, auto
from typing import Final

import msgspec

from finflow.stack.fleets.folder import Order, Plan
from finflow.stack.processes import Process

PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
# A process that lived this long has earned an immediate restart.
HEALTHY_S: Final = 10.0
# So many failed looks after a good one make a process unready: one may be a moment of much work.
MISSES: Final = 2
# How the end of a process is told that the system could not start.
NOT_STARTED: Final = "not started"
_MB: Final = 1 << 20


class Act(Enum):
    """What to do about a slot now."""

    WAIT = auto()
    START = auto()
    END = auto()
    KILL = auto()
    FORGET = auto()


class Slot(msgspec.Struct):
    """The place of one process. Times are of a monotonic clock; `ending_for` says why it was told to end."""

    number: int
    port: int = 0
    process: Process | None = None
    ready: bool = False
    was_ready: bool = False
    misses: int = 0
    born_s: float = 0.0
    answered_s: float = 0.0
    starts: int = 0
    deaths_in_a_row: int = 0
    again_s: float = 0.0
    ending_s: float = 0.0
    ending_for: str = ""
    killed: bool = False
    resident_bytes: int = 0
    last_end: str = ""


def wanted(slot: Slot, order: Order) -> bool:
    """Whether the order has room for this process."""
    return order.mode == "run" and slot.number < order.processes


def reason_to_end(slot: Slot, order: Order, plan: Plan, now_s: float) -> str:
    """Why a running process must end now: scale, drain, stop, memory or hung; empty if it need not."""
    if not wanted(slot, order):
        return "scale" if order.mode == "run" else order.mode
    if plan.memory_limit_mb is not None and slot.resident_bytes > plan.memory_limit_mb * _MB:
        return "memory"
    return "hung" if now_s - max(slot.answered_s, slot.born_s) > plan.hung_after_s else ""


def patience_s(slot: Slot, order: Order, plan: Plan) -> float:
    """How long a process that was told to end may take. An order to stop shortens a drain."""
    if order.mode == "stop" or slot.ending_for not in ("scale", "drain"):
        return plan.stop_timeout_s
    return order.within_s if order.mode == "drain" else plan.drain_s


def decide(slot: Slot, order: Order, plan: Plan, now_s: float) -> Act:
    """The next act about one slot."""
    if slot.process is None:
        if not wanted(slot, order):
            return Act.FORGET
        return Act.START if now_s >= slot.again_s else Act.WAIT
    if slot.ending_for:
        late = now_s >= slot.ending_s + patience_s(slot, order, plan)
        return Act.KILL if late and not slot.killed else Act.WAIT
    return Act.END if reason_to_end(slot, order, plan, now_s) else Act.WAIT


def looked(slot: Slot, status: int | None, plan: Plan, now_s: float) -> bool:
    """Notes what a readiness look saw (None: no answer); True if that changes whether it is ready.

    An answer that is not the wanted one keeps a process from being ready, but proves that it does not hang.
    """
    was = slot.ready
    if status is not None:
        slot.answered_s = now_s
    good = status == plan.ready_status
    slot.misses = 0 if good else slot.misses + 1
    slot.ready = good or (was and slot.misses < MISSES)
    if good:
        slot.was_ready = True
    return slot.ready != was


def ended(slot: Slot, how: str, now_s: float) -> None:
    """Empties the slot of a process that is gone; it comes again after pauses that grow while it dies young.

    One that was ready keeps its port, because the ingress knows it; one that never was may have had a port
    that somebody else took first.
    """
    told = slot.ending_for in ("scale", "drain", "stop")
    young = now_s - slot.born_s < HEALTHY_S
    slot.deaths_in_a_row = 0 if told else slot.deaths_in_a_row * young + 1
    pause = 0.0 if told else min(PAUSE_S * 2 ** (min(slot.deaths_in_a_row, 10) - 1), PAUSE_MAX_S)
    slot.again_s = now_s + pause
    if not slot.was_ready:
        slot.port = 0
    slot.last_end = how
    slot.process, slot.ready, slot.was_ready, slot.misses = None, False, False, 0
    slot.ending_for, slot.killed, slot.resident_bytes = "", False, 0


def hopeless(deaths_in_a_row: int) -> bool:
    """Whether waiting for a process that is not ready is no use any more: it dies again and again."""
    return deaths_in_a_row >= 4
