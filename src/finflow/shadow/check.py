"""The shadow as a gate of a rollout: one wrong comparison fails it, and too few never pass it."""

from pathlib import Path
from time import time
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.shadow.model import bound
from finflow.shadow.report import STALE_AFTER_S, Report, read_report

MIN_COMPARED: Final = 1_000
MAX_LAG_S: Final = 10.0


class ShadowCheck:
    """Reads the report that a shadow writes into its folder; implements rollout.ports.Check.

    FAIL where anything is wrong; ERROR where no shadow runs; INCONCLUSIVE where it compared too little or
    lags. With a `candidate`, so many of the comparisons must be of what that release booked: a hundred
    thousand of the baseline say nothing about it.
    """

    def __init__(
        self,
        folder: Path,
        min_compared: int = MIN_COMPARED,
        max_lag_s: float = MAX_LAG_S,
        gate: str = "shadow",
        candidate: str | None = None,
        min_of_candidate: int = 1,
    ) -> None:
        self._folder = folder
        self._min_compared = min_compared
        self._max_lag_s = max_lag_s
        self._gate = gate
        self._candidate = candidate
        self._min_of_candidate = min_of_candidate

    async def judge(self) -> Judgement:
        """Look now. Never raises."""
        try:
            report = read_report(self._folder)
        except FinFlowError as error:
            return Judgement(self._gate, Verdict.ERROR, {}, error.detail)
        if report is None:
            return Judgement(self._gate, Verdict.ERROR, {}, f"there is no shadow in {self._folder.name}")
        verdict, words = self._judged(report, time() - report.at_s)
        numbers = numbers_of(report)
        if (own := self._own(report)) is not None:
            numbers["compared_of_candidate"] = own
        return Judgement(self._gate, verdict, numbers, words)

    def _own(self, report: Report) -> int | None:
        """How many comparisons are of the candidate; None where nobody asks, or the journal cannot say."""
        if self._candidate is None or report.by_release is None:
            return None
        return report.by_release.get(self._candidate, 0)

    def _judged(self, report: Report, age_s: float) -> tuple[Verdict, str]:
        if report.wrong:
            # Also of a shadow that has died since: what was found stays found.
            return Verdict.FAIL, f"{report.wrong} of {report.compared:,} comparisons are wrong"
        # A word from the future is none: the clock was set back, and nobody can say how old it is.
        if report.state != "running" or abs(age_s) > STALE_AFTER_S:
            return Verdict.ERROR, f"the shadow is {report.state}; its last word is {age_s:.0f} s old"
        if report.lag_s > self._max_lag_s:
            words = f"{report.lag_commands:,} commands wait, the oldest for {report.lag_s:.1f} s"
            return Verdict.INCONCLUSIVE, words
        if report.compared < self._min_compared:
            words = f"{report.compared:,} comparisons, {self._min_compared:,} are needed"
            return Verdict.INCONCLUSIVE, words
        own = self._own(report)
        if own is not None and own < self._min_of_candidate:
            words = (
                f"{own:,} comparisons of what {self._candidate} booked, {self._min_of_candidate:,} are needed"
            )
            return Verdict.INCONCLUSIVE, words
        words = f"0 wrong of {report.compared:,}: below {report.bound or 0.0:.4%} with 95 % confidence"
        if own:
            words += f"; of {self._candidate} 0 of {own:,}: below {bound(own) or 0.0:.4%}"
        return Verdict.PASS, words


def numbers_of(report: Report) -> dict[str, float | int | str]:
    """The numbers that the gate goes by."""
    numbers: dict[str, float | int | str] = {
        "compared": report.compared,
        "wrong": report.wrong,
        "lag_commands": report.lag_commands,
        "lag_s": report.lag_s,
        "commands_per_s": report.commands_per_s,
    }
    if report.bound is not None:
        numbers["bound"] = report.bound
    return numbers | {f"outcome_{name}": count for name, count in sorted(report.outcomes.items())}
