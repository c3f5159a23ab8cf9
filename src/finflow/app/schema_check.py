"""A rollout's schema change: expand before the first step, backfill beside it, verify, contract after all.

Whatever happens in between, an abort included, needs nothing undone: until contract both releases can use
the schema. The database's URL comes from an environment variable and stands in no file.
"""

import asyncio
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from finflow.db.backfill import Told
from finflow.db.change import SchemaChange, StepStatus
from finflow.db.contracting import Permit
from finflow.db.phases import Phase
from finflow.db.steps import DONE
from finflow.db.throttle import Pace
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import SchemaSpec
from finflow.rollout.verdicts import FULL_WEIGHT_BP, Judgement, Verdict

_NOT_YET: Final = frozenset(("phase_missing", "migration_busy"))


class RolloutSchema:
    """The four moments of a rollout at which its schema changes, and what a gate asks in between."""

    def __init__(self, spec: SchemaSpec, beside: Path = Path()) -> None:
        url = os.environ.get(spec.database_url_variable)
        if not url:
            detail = f"The environment has no {spec.database_url_variable}."
            raise FinFlowError("setting_malformed", detail, "database_url_variable")
        self._spec = spec
        self._change = SchemaChange(
            url, beside / spec.folder, change=spec.change, pace=Pace(share=spec.work_share)
        )

    async def before_first_step(self) -> list[str]:
        """Expand. Raises what SchemaChange.expand does; nothing has been given to the candidate then."""
        return await self._change.expand()

    async def during(self, told: Told | None = None) -> list[str]:
        """Backfill, to be run beside the steps; cancelled at any moment, it is taken up where it was."""
        return await self._change.backfill(told)

    async def before_full(self) -> Judgement:
        """Verify, as the word of a gate."""
        return await SchemaVerified(self._change).judge()

    async def after(self, full_since: datetime) -> list[str]:
        """Contract; refused until the quiet period is over and the old release's sessions are gone."""
        permit = Permit(
            full_since, False, self._spec.quiet_s, self._spec.old_release, self._spec.ignored_applications
        )
        return await self._change.contract(permit)

    async def status(self) -> list[StepStatus]:
        """Every step, for a screen."""
        return await self._change.status()


class SchemaVerified:
    """The gate before 100 %: all backfills are done, and every query of the verify files holds."""

    def __init__(self, change: SchemaChange, within_s: float = 900.0) -> None:
        self._change = change
        self._within_s = within_s

    async def judge(self) -> Judgement:
        """Look now. Never raises: what cannot be asked is an ERROR, a backfill under way INCONCLUSIVE."""
        try:
            return await asyncio.wait_for(self._judge(), self._within_s)
        except FinFlowError as error:
            verdict = Verdict.INCONCLUSIVE if error.kind.code in _NOT_YET else Verdict.ERROR
            return Judgement("schema", verdict, {"code": error.kind.code}, error.detail)
        except TimeoutError:
            words = f"The verify files took more than {self._within_s:g} s."
            return Judgement("schema", Verdict.ERROR, {"within_s": self._within_s}, words)

    async def _judge(self) -> Judgement:
        undone = _undone(await self._change.status())
        if undone:
            return Judgement(
                "schema", Verdict.INCONCLUSIVE, {"undone": len(undone)}, f"{undone[0]} is not done."
            )
        findings = await self._change.verify()
        broken = [each for each in findings if not each.held]
        numbers = {"queries": len(findings), "broken": len(broken)}
        if broken:
            words = f"{broken[0].name}.sql:{broken[0].line} does not hold."
            return Judgement("schema", Verdict.FAIL, numbers, words)
        return Judgement("schema", Verdict.PASS, numbers, f"{len(findings)} queries hold.")


def _undone(statuses: Iterable[StepStatus]) -> list[str]:
    before = (Phase.EXPAND, Phase.BACKFILL)
    return [each.name for each in statuses if each.phase in before and each.state != DONE]


# --- what a rollout's decision log says ------------------------------------------------------------------


class _Intent(msgspec.Struct, frozen=True):
    do: str = ""
    weight_bp: int = 0


class _Told(msgspec.Struct, frozen=True):
    event: str = ""
    intent: _Intent = _Intent()
    ok: bool = False
    outcome: str = ""
    decision: str = ""


class _Entry(msgspec.Struct, frozen=True):
    at: str
    told: _Told


def full_since(data: Path, service: str) -> datetime | None:
    """Since when the newest rollout of a service has all traffic, read from its decision log; else None.

    Raises rollout_unknown where the service has no log, and file_unreadable where it cannot be read.
    """
    if "/" in service or service.startswith("."):
        raise FinFlowError("rollout_unknown", f"{service!r} is not the name of a service.")
    folder = data / "rollouts" / service
    logs = sorted(folder.glob("[0-9]*.jsonl")) if folder.is_dir() else []
    if not logs:
        raise FinFlowError("rollout_unknown", f"{folder} holds no decision log of a rollout.")
    try:
        lines = logs[-1].read_bytes().split(b"\n")[:-1]
        entries = [msgspec.json.decode(line, type=_Entry) for line in lines]
        return _folded(entries)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise FinFlowError("file_unreadable", f"{logs[-1]}: {error}") from error


def _folded(entries: list[_Entry]) -> datetime | None:
    since: datetime | None = None
    for entry in entries:
        told: Any = entry.told
        raised = told.event == "done" and told.ok and told.intent.do == "set_weight"
        if raised and told.intent.weight_bp >= FULL_WEIGHT_BP:
            since = since or datetime.fromisoformat(entry.at)
        elif raised or _gives_up(told):
            since = None
    return since


def _gives_up(told: _Told) -> bool:
    """Whether traffic goes back, or is about to; a swap after the end only changes who is called what."""
    intended = told.event in ("intended", "done") and told.intent.do == "take_back"
    aborts = told.outcome == "aborted" or (told.event == "decided" and told.decision == "aborting")
    return intended or aborts or told.event == "started"
