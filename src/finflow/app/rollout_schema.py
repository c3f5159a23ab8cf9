"""A rollout's schema change as a check: each phase at the step that it belongs to, with an abort at any."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks_spec import SchemaSpec
from finflow.rollout.verdicts import Judgement, Verdict

if TYPE_CHECKING:
    from finflow.app.schema_check import RolloutSchema


class SchemaOfRollout:
    """Expand before the first step, backfill beside those after it, verify before the last.

    Every phase may be repeated, and until contract both releases can use the schema: nothing is to be undone.
    `step` is the step that is asked about.
    """

    def __init__(self, spec: SchemaSpec, folder: Path, last_step: int) -> None:
        self._spec, self._folder, self._last_step = spec, folder, last_step
        self._schema: RolloutSchema | None = None
        self._backfill: asyncio.Task[list[str]] | None = None
        self.step = 0

    async def judge(self) -> Judgement:
        """Do what the step needs, and say whether it is done. Never raises."""
        try:
            return await self._phase()
        except FinFlowError as error:
            return self._said(Verdict.ERROR, f"{error.kind.code}: {error.detail}")
        except OSError as error:
            return self._said(Verdict.ERROR, f"The schema cannot be changed: {error}")

    def _said(self, verdict: Verdict, words: str) -> Judgement:
        return Judgement(self._spec.name, verdict, {}, words)

    async def _phase(self) -> Judgement:
        schema = self._opened()
        if self.step == 0:
            await schema.before_first_step()
        if self.step > 0 or self._last_step == 0:
            await self._going_on(schema)
        if self.step < self._last_step:
            return self._said(Verdict.PASS, "The schema serves both releases.")
        if self._backfill is not None:
            return self._said(Verdict.INCONCLUSIVE, "The backfill goes on.")
        return await schema.before_full()

    def _opened(self) -> "RolloutSchema":
        from finflow.app import schema_check

        if self._schema is None:
            named = schema_check.SchemaSpec(
                folder=self._spec.folder,
                database_url_env=self._spec.database_url_variable,
                change=self._spec.change,
                work_share=self._spec.work_share,
            )
            self._schema = schema_check.RolloutSchema(named, self._folder)
        return self._schema

    async def _going_on(self, schema: "RolloutSchema") -> None:
        """Begins the backfill, or takes its end up; one that failed raises, and begins anew next time."""
        if self._backfill is None:
            self._backfill = asyncio.create_task(schema.during())
        await asyncio.wait((self._backfill,), timeout=1.0)
        if self._backfill.done():
            ended, self._backfill = self._backfill, None
            ended.result()

    async def close(self) -> None:
        """The backfill ends where it is; it is taken up there."""
        if self._backfill is not None:
            self._backfill.cancel()
            await asyncio.gather(self._backfill, return_exceptions=True)
