"""Where a rollout stands: everything that its next intent depends on. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from finflow.rollout import events as e
from finflow.rollout.verdicts import Judgement, Reading, Side, Verdict

# A side effect that fails is tried so often before the rollout is taken back; taking back never gives up.
ATTEMPTS: Final = 3


class Phase(StrEnum):
    """What the controller is about."""

    PREPARING = "preparing"
    CHECKING = "checking"
    RAISING = "raising"
    BAKING = "baking"
    PROMOTING = "promoting"
    ABORTING = "aborting"
    PROMOTED = "promoted"
    ABORTED = "aborted"


ENDED: Final = (Phase.PROMOTED, Phase.ABORTED)


class Pending(msgspec.Struct, frozen=True):
    """A notice that is owed: its key is the line of the log that it tells of."""

    key: str
    event: str
    words: str
    at: str


class Told(msgspec.Struct, frozen=True):
    """A decision for the screen."""

    at: str
    who: str
    words: str


class State(msgspec.Struct, frozen=True):
    """Everything that the next intent depends on."""

    rollout_id: str = ""
    service: str = ""
    baseline: str = ""
    candidate: str = ""
    spec_digest: str = ""
    commit: str | None = None
    committed_at: str | None = None
    started_by: str = ""
    started_at: str = ""
    ended_at: str = ""
    epoch: int = 0
    seq: int = 0
    at: str = ""
    phase: Phase = Phase.PREPARING
    step: int = 0
    paused: str = ""
    awaiting: bool = False
    approved: frozenset[int] = frozenset()
    full_by: str = ""
    pass_by: str = ""
    reason: str = ""
    # What the world has been made to be, as far as it was confirmed.
    open: e.Intent | None = None
    weight_bp: int = 0
    serving_step: int = 0
    weight_intended: bool = False
    scaled: int = 0
    baked_s: float = 0.0
    looked_s: float = 0.0
    step_began_at: str = ""
    # The candidate's since the first look of this step, and its total at the last look.
    step_requests: int = 0
    last_requests: int | None = None
    before: Mapping[Side, Reading] = {}
    error_s: float = 0.0
    unready_s: float = 0.0
    drift_bp: int | None = None
    set_right: bool = False
    look: e.Looked | None = None
    checks: e.Done | None = None
    tried: e.Done | None = None
    checks_error_s: float = 0.0
    # What was tried and failed in a row, and what has been done of the ending.
    failures: int = 0
    failure: e.Done | None = None
    done: frozenset[str] = frozenset()
    first_served_at: str = ""
    full_at: str = ""
    detected_at: str = ""
    taken_back_at: str = ""
    orders: frozenset[str] = frozenset()
    approvals: Mapping[str, Told] = {}
    pending: tuple[Pending, ...] = ()
    decisions: tuple[Told, ...] = ()
    impact: Mapping[str, object] = {}

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do but telling people."""
        return self.phase in ENDED

    @property
    def verdict(self) -> Verdict:
        """The worst word of the last look."""
        return self.look.verdict if self.look else Verdict.INCONCLUSIVE


def drift_words(state: State) -> str:
    """What was found behind the controller's back."""
    found = (state.drift_bp or 0) / 100
    return f"the weight is {found:g} % and not {state.weight_bp / 100:g} %: somebody else has set it"


def failing(judgements: Iterable[Judgement], verdict: Verdict) -> str:
    """What the gates of one verdict say, in a sentence."""
    return "; ".join(f"{each.gate}: {each.words}" for each in judgements if each.verdict is verdict)
