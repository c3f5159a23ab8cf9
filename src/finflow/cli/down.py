"""`finflow down`: stops what runs on a data folder, also what a crash left behind."""

import asyncio
import signal
from typing import Any, Final

import click

from finflow.app import Config
from finflow.cli.options import data_option
from finflow.kernel.errors import FinFlowError
from finflow.stack.folder import DataFolder, State
from finflow.stack.front import Front
from finflow.stack.orphans import end_orphans
from finflow.stack.processes import Process, send, wait_gone

_TIMEOUT_S: Final = 120.0


@click.command
@data_option
def down(**flags: Any) -> None:
    """Stop what `finflow up` started."""
    folder = DataFolder(Config.load(flags).data)
    state = folder.read_state()
    if state is not None:
        asyncio.run(_stop(state))
        click.echo(f"Stopped FinFlow on {folder.root}.", err=True)
        return
    ended = asyncio.run(_end_orphans(folder))
    if not ended:
        raise FinFlowError("stack_not_running", f"Nothing runs on {folder.root}.")
    click.echo(f"Ended {ended} processes that a crash had left on {folder.root}.", err=True)


async def _stop(state: State) -> None:
    send(state.up, signal.SIGTERM)
    family: list[Process] = [state.up, *state.workers]
    family += [each for each in (state.postgres, state.ingress) if each]
    if not await wait_gone(family, _TIMEOUT_S):
        raise FinFlowError("stack_running", f"Process {state.up.pid} did not end within {_TIMEOUT_S:.0f} s.")


async def _end_orphans(folder: DataFolder) -> int:
    if not folder.root.is_dir():
        return 0
    if not folder.lock():
        raise FinFlowError("stack_running", f"{folder.root} is being started or stopped right now.")
    try:
        front = Front("caddy", folder, "", 0)
        return await end_orphans(folder) + await front.end_orphan()
    finally:
        folder.unlock()
