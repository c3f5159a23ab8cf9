"""The checks of a rollout that other rooms own: smoke sets, shadow writes, the phases of a schema change.

Some stand before a step, some are looked at beside it: what the money does, and whether the books hold,
cannot wait for the end of a bake.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from finflow.app.checks import Maker, Surroundings, checks
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import InvariantsSpec, SchemaSpec, ShadowSpec, SmokeSpec
from finflow.rollout.ports import Approval, Check, Fleet, Ingress
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Told
from finflow.rollout.verdicts import Judgement, Side, Verdict

if TYPE_CHECKING:
    from finflow.app.schema_check import RolloutSchema

_WATCHED: Final = (ShadowSpec, InvariantsSpec)
# A watched check is asked again after so long; after so long without an answer it says nothing good any more.
_WATCH_EVERY_S: Final = 2.0
_SILENT_S: Final = 60.0


class RecordedApprovals:
    """The approvals that the decision log holds."""

    def __init__(self) -> None:
        self.known: Mapping[str, Told] = {}

    async def find(self, digest: str) -> Approval | None:
        """The approval of the thing with this digest, or None."""
        given = self.known.get(digest)
        return None if given is None else Approval(digest, given.who, given.at)


class StepChecks:
    """The checks of a spec: before a step, when the candidate runs for it, and beside every look."""

    def __init__(
        self, spec: RolloutSpec, data: Path, folder: Path, candidate: Fleet, ingress: Ingress
    ) -> None:
        self._last = len(spec.steps) - 1
        self._approvals = RecordedApprovals()
        around = Surroundings(folder, spec.service, spec.candidate.release, self._approvals)
        pairs = list(
            zip(spec.checks, checks(spec.checks, around, _makers(data, candidate, ingress)), strict=True)
        )
        self._full = [
            _shadow_verified(named, check, data, folder)
            for named, check in pairs
            if isinstance(named, ShadowSpec) and named.verify_before_full
        ]
        self._trying = [check for named, check in pairs if isinstance(named, SmokeSpec)]
        self._phases = [check for _, check in pairs if isinstance(check, SchemaPhases)]
        self._others = [check for named, check in pairs if not isinstance(named, SmokeSpec | SchemaSpec)]
        watched: list[Check] = [
            Beside(_shadow_of_candidate(named, around, data) if isinstance(named, ShadowSpec) else check)
            for named, check in pairs
            if isinstance(named, _WATCHED)
        ]
        self._watched = [*watched, *(phases.backfilling for phases in self._phases)]

    def before(self, step: int, running: bool, approvals: Mapping[str, Told]) -> Sequence[Check]:
        """Those of a step; the schema is expanded before the first. Before the last it is verified, and both
        books are compared as a whole.
        """
        self._approvals.known = approvals
        if running:
            return self._trying
        full = self._full if step == self._last else []
        return [*self._others, *full, *(phases.at(step, self._last) for phases in self._phases)]

    def beside(self) -> Sequence[Check]:
        """Those that are asked at every look; they answer at once, with what they saw last."""
        return self._watched

    async def close(self) -> None:
        """End what goes on beside the steps."""
        for each in self._watched:
            if isinstance(each, Beside | Backfilling):
                await each.close()


class Beside:
    """Another check, asked in the background: a look never waits for it."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._asking: asyncio.Task[Judgement] | None = None
        self._asked_s = self._heard_s = monotonic()
        self._last: Judgement | None = None

    async def judge(self) -> Judgement:
        """What it said last; ERROR where it has not answered for a minute."""
        if self._asking is not None and self._asking.done():
            answered, self._asking = self._asking, None
            self._last, self._heard_s = answered.result(), monotonic()
        if self._asking is None and (self._last is None or monotonic() - self._asked_s >= _WATCH_EVERY_S):
            self._asked_s = monotonic()
            self._asking = asyncio.create_task(self._check.judge())
            # What answers at once is heard at once.
            await asyncio.wait({self._asking}, timeout=0.05)
            return await self.judge() if self._asking.done() else self._known()
        return self._known()

    def _known(self) -> Judgement:
        if self._last is not None and monotonic() - self._heard_s < _SILENT_S:
            return self._last
        silent = monotonic() - self._heard_s >= _SILENT_S
        verdict = Verdict.ERROR if silent else Verdict.INCONCLUSIVE
        gate = self._last.gate if self._last else type(self._check).__name__
        return Judgement(gate, verdict, {}, "it does not answer" if silent else "it has not answered yet")

    async def close(self) -> None:
        await _cancelled(self._asking)


class SchemaPhases:
    """A schema change whose phases go with the steps."""

    def __init__(self, made: Callable[[], "RolloutSchema"], name: str) -> None:
        self._schema = made()
        self.name = name
        self.backfilling = Backfilling(self._schema, name)

    def at(self, step: int, last: int) -> Check:
        """What the schema must have been through before a step."""
        return _SchemaBefore(self._schema, self.name, step == 0, step == last)


class _SchemaBefore:
    def __init__(self, schema: "RolloutSchema", name: str, first: bool, last: bool) -> None:
        self._schema, self._name, self._first, self._last = schema, name, first, last

    async def judge(self) -> Judgement:
        """Expands before the first step, verifies before the last. Never raises."""
        try:
            if self._last:
                return await self._schema.before_full()
            done = await self._schema.before_first_step() if self._first else []
        except FinFlowError as error:
            verdict = Verdict.ERROR if error.kind.retryable else Verdict.FAIL
            return Judgement(self._name, verdict, {"code": error.kind.code}, error.detail)
        words = f"expanded: {', '.join(done)}" if done else "both releases can use the schema"
        return Judgement(self._name, Verdict.PASS, {"steps": len(done)}, words)


class Backfilling:
    """The backfill, which begins at the first look and goes on beside the steps."""

    def __init__(self, schema: "RolloutSchema", name: str) -> None:
        self._schema, self._name = schema, name
        self._task: asyncio.Task[list[str]] | None = None

    async def judge(self) -> Judgement:
        """PASS while it works and when it is done; ERROR where it broke: the next look begins it again."""
        if self._task is None:
            self._task = asyncio.create_task(self._schema.during())
        if not self._task.done():
            return Judgement(self._name, Verdict.PASS, {}, "the backfill is under way")
        task, error = self._task, self._task.exception()
        if error is None:
            return Judgement(self._name, Verdict.PASS, {"steps": len(task.result())}, "the backfill is done")
        self._task = None
        words = error.detail if isinstance(error, FinFlowError) else f"{type(error).__name__}: {error}"
        return Judgement(self._name, Verdict.ERROR, {}, words)

    async def close(self) -> None:
        """It is taken up where it was, by whoever comes next."""
        await _cancelled(self._task)


async def _cancelled(task: "asyncio.Task[Any] | None") -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def _makers(data: Path, candidate: Fleet, ingress: Ingress) -> Mapping[type, Maker]:
    def smoke(each: SmokeSpec, around: Surroundings) -> Check:
        return SmokeOfCandidate(each, around, ingress, candidate)

    def shadow(each: ShadowSpec, around: Surroundings) -> Check:
        from finflow.shadow.check import ShadowCheck

        folder = _shadow_folder(each, data, around.folder)
        return ShadowCheck(folder, each.least_compared, each.longest_lag_s, each.name)

    def schema(each: SchemaSpec, around: Surroundings) -> Any:
        from finflow.app.schema_check import RolloutSchema

        return SchemaPhases(lambda: RolloutSchema(each, around.folder), each.name)

    return {SmokeSpec: smoke, ShadowSpec: shadow, SchemaSpec: schema}


def _shadow_folder(named: ShadowSpec, data: Path, folder: Path) -> Path:
    return folder / named.folder if named.folder else data / "shadow"


def _shadow_of_candidate(named: ShadowSpec, around: Surroundings, data: Path) -> Check:
    """Beside the steps the candidate serves, so that there is something of it to compare."""
    from finflow.shadow.check import ShadowCheck

    return ShadowCheck(
        _shadow_folder(named, data, around.folder), named.least_compared, named.longest_lag_s, named.name,
        around.release, named.least_of_candidate,
    )  # fmt: skip


def _shadow_verified(named: ShadowSpec, said: Check, data: Path, folder: Path) -> Check:
    from finflow.app.shadow import ShadowFolder
    from finflow.app.shadow_check import ShadowVerified

    return ShadowVerified(named, said, ShadowFolder(_shadow_folder(named, data, folder)), data)


class SmokeOfCandidate:
    """A verification asked of the candidate, wherever it answers at this moment.

    Through a router of ours it is asked as testers ask, by the override's header; past another one directly.
    """

    def __init__(self, named: SmokeSpec, around: Surroundings, ingress: Ingress, candidate: Fleet) -> None:
        self._named, self._around = named, around
        self._ingress, self._candidate = ingress, candidate
        # What is wrong with the file is said before anything is begun.
        self._made("http://127.0.0.1", {})

    async def judge(self) -> Judgement:
        """Look now."""
        try:
            url, headers = await self._place()
        except (FinFlowError, OSError) as error:
            return Judgement(self._named.name, Verdict.ERROR, {}, f"The candidate is nowhere: {error}")
        return await self._made(url, headers).judge()

    def _made(self, url: str, headers: Mapping[str, str]) -> Check:
        from finflow.app import Config
        from finflow.app.smoke import Smoke, smoke_check

        named = self._named
        smoke = Smoke(
            spec=named.spec, base_url=url, headers=headers, timeout_s=named.timeout_s, name=named.name
        )
        return smoke_check(smoke, Config.load(), self._around.folder, self._around.environ)

    async def _place(self) -> tuple[str, Mapping[str, str]]:
        from finflow.stack.ingress.local import LocalIngress

        if self._named.base_url is not None:
            return self._named.base_url, {}
        if isinstance(self._ingress, LocalIngress):
            return self._ingress.url, self._ingress.override(Side.CANDIDATE, self._around.environ)
        endpoints = await self._candidate.endpoints()
        if not endpoints:
            raise FinFlowError("source_unreachable", "No process of the candidate is ready.")
        return f"http://{endpoints[0].host}:{endpoints[0].port}", {}
