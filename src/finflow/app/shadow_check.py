"""The shadow before everybody: what it says of commands, then both books as a whole.

Comparisons see what commands did. The checksum sees what lies in the tables, however it came there, and that
nothing is on one side alone; it costs a pass over both databases, so it is asked before the last step only.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Final

from finflow.app.shadow import ShadowFolder
from finflow.kernel.errors import FinFlowError
from finflow.rollout.checks.guarded import Guarded, judged
from finflow.rollout.checks_spec import ShadowSpec
from finflow.rollout.ports import Check
from finflow.rollout.verdicts import Judgement, Verdict
from finflow.shadow import checksum
from finflow.stack.folder import DataFolder

# What holds is not computed again while the step waits for something else, such as a person.
GOOD_FOR_S: Final = 900.0
# On top of what the spec gives the checksum: to open and close two connections.
_SLACK_S: Final = 30.0


class ShadowVerified(Guarded):
    """Passes where the shadow passes and both books are equal; FAIL where they are not. Never raises."""

    def __init__(self, spec: ShadowSpec, said: Check, place: ShadowFolder, data: Path) -> None:
        super().__init__(f"{spec.name} checksum", self._look, spec.verify_within_s + _SLACK_S)
        self.name = f"{spec.name} checksum"
        self._spec = spec
        self._said = said
        self._place = place
        self._data = data
        self._passed: tuple[float, Judgement] | None = None

    async def _look(self) -> Judgement:
        said = await self._said.judge()
        if said.verdict is not Verdict.PASS:
            return judged(self.name, said.verdict, f"It waits for the comparisons: {said.words}")
        if self._passed is not None and monotonic() - self._passed[0] < GOOD_FOR_S:
            return self._passed[1]
        try:
            found = await self._verified()
        except FinFlowError as error:
            # Not caught up yet is no fault of anything; whatever else is in the way is named.
            behind = error.kind.code == "shadow_behind"
            verdict = Verdict.INCONCLUSIVE if behind else Verdict.ERROR
            return judged(self.name, verdict, f"{error.kind.title} {error.detail}", {"code": error.kind.code})
        return self._word(found)

    async def _verified(self) -> checksum.Verified:
        live_url = live_url_of(self._spec, self._data)
        async with asyncio.timeout(self._spec.verify_within_s):
            return await checksum.verify(live_url, self._place.clone_url(), self._spec.verify_within_s / 2)

    def _word(self, found: checksum.Verified) -> Judgement:
        numbers = {
            "accounts": found.accounts,
            "entries": found.entries,
            "commands": found.commands,
            "accounts_apart": found.apart,
            "unexplained": found.unexplained,
        }
        if not found.equal:
            words = f"{found.apart:,} accounts are apart, {found.unexplained:,} findings have no case."
            return judged(self.name, Verdict.FAIL, words, numbers)
        words = f"{found.accounts:,} accounts and {found.commands:,} commands are equal on both sides."
        said = judged(self.name, Verdict.PASS, words, numbers)
        self._passed = monotonic(), said
        return said


def live_url_of(spec: ShadowSpec, data: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The live database: the one that the variable names, else that of the FinFlow which runs on the data
    folder. Raises setting_malformed.
    """
    if named := environ.get(spec.database_url_variable):
        return named
    state = DataFolder(data).read_state()
    # A URL that had a password is kept without it, and leads nowhere.
    if state is None or state.postgres is None:
        variable = spec.database_url_variable
        words = f"{variable} is not set: the live books are not known, so they cannot be compared as a whole."
        raise FinFlowError("setting_malformed", words, variable)
    return state.database_url
