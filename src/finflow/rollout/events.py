"""What a decision log tells: one struct for each kind of line, and what the controller may intend."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict


class _Told(msgspec.Struct, frozen=True, tag_field="event"):
    pass


class _Intent(msgspec.Struct, frozen=True, tag_field="do"):
    pass


# --- what the controller may intend: each may be repeated, it makes things so ---------------------------


class Prepare(_Intent, frozen=True, tag="prepare"):
    """Have the baseline serve everybody: its processes as the ingress's backends, the weight 0."""


class AskChecks(_Intent, frozen=True, tag="ask_checks"):
    """Ask the checks that stand before a step; `running`: those that try the candidate out."""

    step: int
    running: bool = False


class Scale(_Intent, frozen=True, tag="scale"):
    """Have so many processes of the candidate ready, as the ingress's backends."""

    step: int
    processes: int


class SetWeight(_Intent, frozen=True, tag="set_weight"):
    """Send this share to the candidate, and read it back."""

    step: int
    weight_bp: int


class TakeBack(_Intent, frozen=True, tag="take_back"):
    """Weight 0, read back from the ingress."""


class Swap(_Intent, frozen=True, tag="swap"):
    """The candidate's processes become the ingress's baseline, and the weight 0, for the next rollout."""


class Drain(_Intent, frozen=True, tag="drain"):
    """Finish what a fleet has under way."""

    side: Side


class Stop(_Intent, frozen=True, tag="stop"):
    """End a fleet's processes."""

    side: Side


Intent = Prepare | AskChecks | Scale | SetWeight | TakeBack | Swap | Drain | Stop


class Order(StrEnum):
    """What a person can tell a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    PROMOTE = "promote"
    PROMOTE_FULL = "promote_full"
    ABORT = "abort"


class Decision(StrEnum):
    """What the controller concludes."""

    PASS_CHECKS = "checks_passed"  # noqa: S105 - the name of a decision, not a password
    AWAIT = "awaiting_approval"
    PASS_STEP = "step_passed"  # noqa: S105 - the name of a decision, not a password
    PAUSE = "paused"
    ABORT = "aborting"


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ABORTED = "aborted"


# --- what is told -----------------------------------------------------------------------------------------


class Started(_Told, frozen=True, tag="started"):
    """A rollout begins; its whole spec stands in the log, so nothing else is needed to go on."""

    rollout_id: str
    service: str
    baseline: str
    candidate: str
    spec_digest: str
    spec: Mapping[str, Any]
    folder: str = "."
    commit: str | None = None
    committed_at: str | None = None


class TookOver(_Told, frozen=True, tag="took_over"):
    """A controller has the lock; epochs count them."""

    epoch: int
    pid: int
    host: str


class Left(_Told, frozen=True, tag="left"):
    """A controller went before the end; the ingress and the fleets go on serving."""

    words: str


class Recovered(_Told, frozen=True, tag="recovered"):
    """The line before was half written by a controller that died, and was set aside."""

    torn_bytes: int
    kept_as: str


class Intended(_Told, frozen=True, tag="intended"):
    """Written before a side effect."""

    intent: Intent


class Done(_Told, frozen=True, tag="done"):
    """Written after it, however it went."""

    intent: Intent
    ok: bool
    words: str = ""
    facts: Mapping[str, Any] = {}
    judgements: tuple[Judgement, ...] = ()


class Looked(_Told, frozen=True, tag="looked"):
    """One look at everything: what the router does, what the fleet has, what the gates say.

    The readings stand here whole, so that a new controller's gates learn all that the old one's knew, and
    anybody can judge again what was judged.
    """

    step: int
    at_s: float
    intended_bp: int
    weight_bp: int | None
    ready: int | None
    processes: int
    delta_s: float
    verdict: Verdict = Verdict.INCONCLUSIVE
    judgements: tuple[Judgement, ...] = ()
    readings: Mapping[Side, Reading] = {}
    routed: Mapping[Side, int] | None = None
    error: str | None = None


class Ordered(_Told, frozen=True, tag="ordered"):
    """A person's order was taken up; refused ones say why, and change nothing."""

    order: Order
    order_id: str
    accepted: bool
    words: str = ""


class Decided(_Told, frozen=True, tag="decided"):
    """A conclusion, and the numbers that it rests on."""

    decision: Decision
    step: int
    words: str
    judgements: tuple[Judgement, ...] = ()


class Noted(_Told, frozen=True, tag="noted"):
    """Something worth knowing: drift, a clock that jumped, what the candidate touched, an alarm."""

    what: str
    words: str
    facts: Mapping[str, Any] = {}


class Notified(_Told, frozen=True, tag="notified"):
    """People were told of an event, or could not be; `key` names it once and for all."""

    key: str
    ok: bool
    words: str = ""


class Finished(_Told, frozen=True, tag="finished"):
    """The end."""

    outcome: Outcome
    words: str


Event = (
    Started
    | TookOver
    | Left
    | Recovered
    | Intended
    | Done
    | Looked
    | Ordered
    | Decided
    | Noted
    | Notified
    | Finished
)


class Entry(msgspec.Struct, frozen=True):
    """One line of the log: its number, the hash of the line before, when, who, what."""

    seq: int
    prev: str
    at: str
    who: str
    told: Event
