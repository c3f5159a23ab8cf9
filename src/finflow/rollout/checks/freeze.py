"""Freeze windows as a check. One that begins during a rollout holds it where it is, and aborts nothing."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from finflow.rollout.checks.guarded import Guarded, judged
from finflow.rollout.checks.scan import utc_now
from finflow.rollout.checks.windows import Frozen, frozen_until
from finflow.rollout.checks_spec import FreezeSpec
from finflow.rollout.ports import Approvals
from finflow.rollout.verdicts import Judgement, Verdict


class FreezeCheck(Guarded):
    """INCONCLUSIVE within a window: the rollout waits for its end or, if the spec says so, for a person."""

    def __init__(self, spec: FreezeSpec, approvals: Approvals, now: Callable[[], datetime] = utc_now) -> None:
        super().__init__(spec.name, self._look_at_the_clock, 5.0)
        self._spec = spec
        self._approvals = approvals
        self._now = now

    async def _look_at_the_clock(self) -> Judgement:
        now = self._now()
        frozen = frozen_until(self._spec.windows, now)
        if frozen is None:
            return judged(self._spec.name, Verdict.PASS, "No freeze window is open.")
        until = _text(frozen.until)
        numbers: dict[str, float | int | str] = {
            "frozen_until": until,
            "frozen_for_s": int((frozen.until - now).total_seconds()),
        }
        words = f"Frozen until {until}" + (f": {frozen.reason}" if frozen.reason else "")
        if self._spec.overridable:
            numbers["digest"] = digest = _digest(self._spec.name, frozen)
            if approval := await self._approvals.find(digest):
                words = f"{words}, overridden by {approval.by} at {approval.at}."
                return judged(self._spec.name, Verdict.PASS, words, {**numbers, "approved_by": approval.by})
        return judged(self._spec.name, Verdict.INCONCLUSIVE, f"{words}.", numbers)


def _digest(gate: str, frozen: Frozen) -> str:
    """Names one occurrence of a window: next week's has another one."""
    named = f"{gate}\n{_text(frozen.since)}\n{_text(frozen.until)}"
    return f"sha256:{hashlib.sha256(named.encode()).hexdigest()}"


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
