"""What it takes to take a candidate back, and nothing else: the router.

A rollout is composed of everything that its spec names: variables, files, a database, a release. Whoever
must abort one at another terminal may have none of these. What is missing is left out, and the log says so.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

from finflow.app import notices
from finflow.app.rollout_world import fleet_of, router_of
from finflow.kernel.errors import FinFlowError
from finflow.rollout.judge import Judge
from finflow.rollout.ports import Check, Endpoint, Fleet, Notice, Notifier
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Told
from finflow.rollout.verdicts import Reading, Side
from finflow.rollout.world import World

log = logging.getLogger(__name__)

_LAST_NOTICES_WITHIN_S: Final = 30.0


@asynccontextmanager
async def composed(spec: RolloutSpec, data: Path, folder: Path) -> AsyncIterator[World]:
    """A world in which nothing can be done but to take the candidate back."""
    async with AsyncExitStack() as stack:
        yield World(
            ingress=router_of(spec, data),
            baseline=_fleet(spec, Side.BASELINE, data, folder),
            candidate=_fleet(spec, Side.CANDIDATE, data, folder),
            source=_Blind(),
            judge=Judge(spec.gates),
            checks=_Unasked(),
            notifier=await _notifier(spec, data, folder, stack),
        )


def _fleet(spec: RolloutSpec, side: Side, data: Path, folder: Path) -> Fleet:
    try:
        return fleet_of(spec, side, data, folder)
    except FinFlowError as error:
        log.warning("the fleet cannot be reached", extra={"side": str(side), "error": str(error)})
        return _Lost(error)


async def _notifier(spec: RolloutSpec, data: Path, folder: Path, stack: AsyncExitStack) -> Notifier:
    try:
        outbox = notices.outbox(spec.notify, folder, data / "rollouts" / spec.service / "notices.jsonl")
        await outbox.open()
    except FinFlowError as error:
        log.warning("nobody can be told from here", extra={"error": str(error)})
        return _Mute(error)
    stack.push_async_callback(outbox.close, _LAST_NOTICES_WITHIN_S)
    return outbox


class _Lost:
    """A fleet that cannot be found from here, such as one of a release that was removed."""

    def __init__(self, reason: FinFlowError) -> None:
        self._reason = reason

    def _raise(self) -> NoReturn:
        raise FinFlowError("fleet_failed", str(self._reason))

    async def start(self, processes: int) -> None:
        self._raise()

    async def ready(self, within_s: float) -> bool:
        self._raise()

    async def endpoints(self) -> Sequence[Endpoint]:
        self._raise()

    def last_words(self) -> str:
        return self._reason.detail

    async def drain(self, within_s: float) -> bool:
        self._raise()

    async def stop(self) -> None:
        self._raise()


class _Blind:
    """No numbers: nothing is judged any more."""

    async def read(self) -> Mapping[Side, Reading]:
        raise FinFlowError("source_unreachable", "The candidate is being taken back.")


class _Unasked:
    """No checks either."""

    def before(self, step: int, running: bool, approvals: Mapping[str, Told]) -> Sequence[Check]:
        return ()

    def beside(self) -> Sequence[Check]:
        return ()


class _Mute:
    """Tells nobody, and has the log say why."""

    def __init__(self, reason: FinFlowError) -> None:
        self._reason = reason

    async def notify(self, notice: Notice) -> None:
        raise FinFlowError("notice_undelivered", str(self._reason))
