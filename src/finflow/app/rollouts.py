"""Rollouts composed: where a service's state lies, and a controller with everything that its spec names."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import msgspec

from finflow.kernel import ids
from finflow.kernel.clock import system_clock
from finflow.kernel.errors import FinFlowError
from finflow.rollout import events as e
from finflow.rollout import log
from finflow.rollout.fold import folded
from finflow.rollout.lock import ServiceLock, holder
from finflow.rollout.log import DecisionLog
from finflow.rollout.orders import OrderBox, somebody
from finflow.rollout.service import Controller
from finflow.rollout.spec import RolloutSpec
from finflow.rollout.state import Phase, State
from finflow.rollout.world import World

_LOCK_TRIES: Final = 10
_LOCK_PAUSE_S: Final = 0.05
Heard = Callable[[e.Entry, State], None]
Composed = Callable[[RolloutSpec, Path, Path], AbstractAsyncContextManager[World]]


class Service:
    """One service's folder: DATA/rollouts/SERVICE with `lock`, `orders/`, and 000001.jsonl and so on."""

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.data = data
        self.folder = data / "rollouts" / name
        self.orders = OrderBox(self.folder)

    @property
    def controller(self) -> int | None:
        """The process that carries its rollout on now."""
        return holder(self.folder)

    def rollouts(self) -> list[list[e.Entry]]:
        """What its logs say, one list a rollout, oldest first."""
        found = [log.read(path) for path in log.files(self.folder)]
        return [entries for entries in found if entries]

    def last(self) -> list[e.Entry]:
        """What the log of its last rollout says. Raises rollout_unknown."""
        for path in reversed(log.files(self.folder)):
            if entries := log.read(path):
                return entries
        raise FinFlowError("rollout_unknown", f"There is no rollout of {self.name} in {self.folder}.")

    def verify(self) -> log.Verified:
        """Whether its log is what was written."""
        return log.verify(self.folder)


def service(data: Path, name: str | None) -> Service:
    """The service of this name, or the only one there is. Raises rollout_unknown."""
    known = sorted(each.name for each in (data / "rollouts").glob("*") if each.is_dir())
    if name is None and len(known) != 1:
        which = f"Name one of {', '.join(known)}." if known else f"There is none in {data / 'rollouts'}."
        raise FinFlowError("rollout_unknown", which, "SERVICE")
    if name is not None and name not in known:
        raise FinFlowError("rollout_unknown", f"There is no rollout of {name!r} in {data / 'rollouts'}.")
    return Service(data, name or known[0])


def spec_of(entries: Sequence[e.Entry]) -> tuple[RolloutSpec, Path]:
    """The spec that a rollout was started with, and the folder that its relative paths begin at."""
    told = entries[0].told
    assert isinstance(told, e.Started), "a rollout's log begins with its start"
    try:
        return msgspec.convert(told.spec, RolloutSpec), Path(told.folder)
    except msgspec.ValidationError as error:
        reason = f"it was started by another version of FinFlow: {error}"
        raise FinFlowError("log_broken", reason) from error


def digest_of(spec: RolloutSpec) -> str:
    """Two specs that say the same have the same digest, however they are written."""
    return hashlib.sha256(msgspec.json.encode(spec, order="deterministic")).hexdigest()


class Session:
    """The lock and the log of a service, held by this process: `async with Session(...) as session`."""

    def __init__(self, place: Service) -> None:
        self.place = place
        self.lock = ServiceLock(place.folder)
        self.log = DecisionLog(place.folder)

    async def __aenter__(self) -> "Session":
        # Whoever only looks holds the lock for an instant.
        for _ in range(_LOCK_TRIES):
            if self.lock.take():
                self.log.open()
                return self
            await asyncio.sleep(_LOCK_PAUSE_S)
        pid = self.place.controller
        raise FinFlowError("rollout_controlled", f"Process {pid} controls {self.place.name}.")

    async def __aexit__(self, *_: object) -> None:
        self.log.close()
        self.lock.give()

    @property
    def state(self) -> State | None:
        """Where its last rollout stands."""
        return folded(self.log.entries) if self.log.entries else None

    def begin(self, spec: RolloutSpec, folder: Path, again: bool = False) -> State:
        """The rollout of this spec: a new one, or the one that has not ended.

        Raises rollout_active where another one has not, and rollout_repeated where this one was taken back.
        """
        state, digest = self.state, digest_of(spec)
        if state is not None and not state.ended:
            if state.spec_digest != digest:
                raise FinFlowError("rollout_active", f"{state.candidate} is {state.phase} on {spec.service}.")
            return state
        if state is not None and state.spec_digest == digest and not again:
            if state.phase is Phase.PROMOTED:
                return state
            raise FinFlowError("rollout_repeated", f"{state.candidate} was taken back: {state.reason}")
        self.log.begin(somebody(), _started(spec, folder, digest))
        return folded(self.log.entries)

    async def carry_on(self, compose: Composed, heard: Heard) -> State:
        """Controls the rollout to its end; cancelled, it leaves everything as it is."""
        spec, folder = spec_of(self.log.entries)
        async with compose(spec, self.place.data, folder) as world:
            controller = Controller(spec, world, self.log, self.lock, self.place.orders, heard)
            await controller.run()
            return controller.state


def _started(spec: RolloutSpec, folder: Path, digest: str) -> e.Started:
    raw: Mapping[str, Any] = msgspec.to_builtins(spec)
    return e.Started(
        rollout_id=ids.mint("rol", system_clock(), 0, secrets.randbits(38)),
        service=spec.service,
        baseline=spec.baseline.release,
        candidate=spec.candidate.release,
        spec_digest=digest,
        spec=raw,
        folder=str(folder.absolute()),
        commit=spec.candidate.commit,
        committed_at=spec.candidate.committed_at,
    )
