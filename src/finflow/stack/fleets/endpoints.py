"""A fleet that somebody else runs: it can be looked at, and ended where the spec says how."""

import asyncio
import os
from collections.abc import Sequence
from time import monotonic
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.rollout.fleet_spec import EndpointsFleet as Spec
from finflow.rollout.fleet_spec import split_endpoint
from finflow.rollout.ports import Endpoint
from finflow.stack import children, ports
from finflow.stack.fleets import watching

_POLL_S: Final = 0.1
_WORDS_MAX: Final = 500


class EndpointsFleet:
    """Processes at fixed places, such as the fleet that is to be replaced."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._all = [Endpoint(*split_endpoint(text)) for text in spec.endpoints]

    async def start(self, processes: int) -> None:
        """They are started and scaled by whoever runs them, so this changes nothing."""

    async def ready(self, within_s: float) -> bool:
        """Whether all of them answer the check within this time."""
        deadline = monotonic() + within_s
        while len(await self.endpoints()) < len(self._all):
            if monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def endpoints(self) -> Sequence[Endpoint]:
        """Those that answer the check now."""
        answers = await asyncio.gather(*(self._answers(each) for each in self._all))
        return [each for each, good in zip(self._all, answers, strict=True) if good]

    def last_words(self) -> str:
        """Nothing: whoever runs them has their logs."""
        return ""

    async def drain(self, within_s: float) -> bool:
        """True: the ingress has taken their requests away, and nobody here sees what they still work at."""
        return True

    async def stop(self) -> None:
        """Runs the command that ends them, if there is one. Raises fleet_failed, fleet_environment."""
        if self._spec.stop_command is None:
            return
        environment = {
            **children.plain_environment(),
            **{name: os.environ[name] for name in ("HOME", "USER") if name in os.environ},
            **watching.passed_on(self._spec.environment_from),
        }
        try:
            child = await asyncio.create_subprocess_exec(
                *self._spec.stop_command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
            )
        except OSError as error:
            raise FinFlowError("fleet_failed", f"{self._spec.stop_command[0]}: {error.strerror}") from error
        await self._finished(child)

    async def _finished(self, child: asyncio.subprocess.Process) -> None:
        try:
            output, _ = await asyncio.wait_for(child.communicate(), self._spec.stop_timeout_s)
        except TimeoutError as error:
            child.kill()
            await child.wait()
            raise FinFlowError("fleet_failed", "The stop command took longer than it may.") from error
        if child.returncode != 0:
            words = output.decode(errors="replace").strip()[-_WORDS_MAX:]
            raise FinFlowError("fleet_failed", f"The stop command ended with {child.returncode}: {words}")

    async def _answers(self, endpoint: Endpoint) -> bool:
        if self._spec.ready_path is None:
            return await ports.takes_connections(endpoint.host, endpoint.port)
        status = await ports.http_status(endpoint.host, endpoint.port, self._spec.ready_path)
        return status == self._spec.ready_status
