"""A verification as a gate of a rollout: the smoke set, asked of the candidate."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.verification.model import Report, Status
from finflow.verification.service import Run, verify
from finflow.verification.spec import Spec


class SmokeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, where, and how it reaches the candidate.

    `url` is the ingress, and `headers` has the testers' override, so that the candidate answers whatever the
    weight is. `passed_min` is how many checks must have passed: a set that lost its checks does not pass.
    """

    spec: Spec
    url: str
    tags: Sequence[str] = ("smoke",)
    headers: Mapping[str, str] = {}
    environ: Mapping[str, str] = {}
    timeout_s: float = 120.0
    passed_min: int = 1
    name: str = "smoke"


async def _nothing() -> Mapping[str, str]:
    return {}


class SmokeCheck:
    """A `rollout.ports.Check`. `prepare` gives the spec's inputs, anew for each look: tokens grow old."""

    def __init__(
        self, settings: SmokeSettings, prepare: Callable[[], Awaitable[Mapping[str, str]]] = _nothing
    ) -> None:
        self._settings = settings
        self._prepare = prepare

    async def judge(self) -> Judgement:
        """Look now: FAIL if a check failed, ERROR if nobody answers, INCONCLUSIVE if checks were left out."""
        settings = self._settings
        try:
            values = await self._prepare()
            run = Run(
                spec=settings.spec,
                url=settings.url,
                tags=settings.tags,
                values=values,
                environ=settings.environ,
                headers=settings.headers,
                deadline_s=settings.timeout_s,
            )
            return self._said(await verify(run))
        except FinFlowError as error:
            return Judgement(settings.name, Verdict.ERROR, {}, f"{error.kind.code}: {error.detail}")
        except Exception as error:  # noqa: BLE001,RUF100 - a gate never raises: what it cannot judge is ERROR
            return Judgement(settings.name, Verdict.ERROR, {}, f"{type(error).__name__}: {error}")

    def _said(self, report: Report) -> Judgement:
        counts = {str(status): report.count(status) for status in Status}
        numbers: dict[str, float | int | str] = {**counts, "duration_s": report.duration_s, "run": report.run}
        return Judgement(self._settings.name, self._verdict(report), numbers, _words(report))

    def _verdict(self, report: Report) -> Verdict:
        if report.unreachable:
            return Verdict.ERROR
        if report.count(Status.FAILED):
            return Verdict.FAIL
        whole = report.count(Status.PASSED) >= self._settings.passed_min and not report.count(Status.SKIPPED)
        return Verdict.PASS if whole else Verdict.INCONCLUSIVE


def _words(report: Report) -> str:
    bad = [each for each in report.outcomes if each.status is not Status.PASSED]
    if not bad:
        return f"all {len(report.outcomes)} checks passed"
    first = bad[0]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{first.id} {first.status}: {first.words}{more}"
