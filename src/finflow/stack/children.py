"""Child processes of ours: as which user they run, what they are told, where they write, how they end."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal

from finflow.kernel.errors import FinFlowError
from finflow.stack.enter import NOBODY
from finflow.stack.folder import folder_error

Identity = Literal["same", "namespace", "nobody"]

_ENTER: Final = Path(__file__).with_name("enter.py")
_PROBE_TIMEOUT_S: Final = 20.0
_LOG_MAX_BYTES: Final = 64 << 20
_TAIL_BYTES: Final = 16_384
_STDOUT: Final = 1


def command(identity: Identity, death_signal: int, *program: str) -> list[str]:
    """The command line that runs a program as this identity and ends it with this signal when we end."""
    return [sys.executable, "-I", "-S", str(_ENTER), identity, str(int(death_signal)), *program]


def plain_environment() -> dict[str, str]:
    """An environment without the caller's PG* variables, locale and secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C"}


async def identity_for(program: Path) -> Identity:
    """How a program that refuses root can run here: as we are, in a user namespace, or as `nobody`.

    Raises data_unusable where root can give it none of these.
    """
    if os.geteuid() != 0:
        return "same"
    if await _works("namespace", program):
        return "namespace"
    if await _works("nobody", program):
        return "nobody"
    raise FinFlowError(
        "data_unusable",
        f"PostgreSQL does not run as root, user namespaces are forbidden here, and {program} cannot be "
        "reached by the user nobody.",
    )


async def _works(identity: Identity, program: Path) -> bool:
    child = await asyncio.create_subprocess_exec(
        *command(identity, signal.SIGKILL, str(program), "--version"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=plain_environment(),
    )
    return await asyncio.wait_for(child.wait(), _PROBE_TIMEOUT_S) == 0


def hand_over(identity: Identity, *paths: Path) -> None:
    """Gives paths to the user that a child will be, where that is not us."""
    if identity == "nobody":
        for path in paths:
            shutil.chown(path, NOBODY, NOBODY)


def check_reachable(identity: Identity, folder: Path) -> None:
    """Raises data_unusable if a child that is `nobody` could not walk down to the folder."""
    if identity != "nobody":
        return
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:
            raise FinFlowError(
                "data_unusable",
                f"PostgreSQL does not run as root, user namespaces are forbidden here, and the user nobody "
                f"may not pass {parent}.",
            )


async def run(identity: Identity, program: Path, *arguments: str, timeout_s: float) -> tuple[int, str]:
    """Runs a program to its end: its exit status and what it wrote. Raises TimeoutError."""
    child = await asyncio.create_subprocess_exec(
        *command(identity, signal.SIGKILL, str(program), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=plain_environment(),
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), timeout_s)
    except BaseException:
        child.kill()
        await child.wait()
        raise
    return await child.wait(), output.decode(errors="replace")


async def spawn(
    arguments: list[str], log: BinaryIO, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Starts a long-running child in a session of its own, so that Ctrl-C in a terminal reaches only us."""
    return await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(environment),
        start_new_session=True,
    )


async def stop(
    child: asyncio.subprocess.Process, signals: tuple[signal.Signals, ...], timeout_s: float
) -> None:
    """Sends the signals one after another, each with its time, until the child ends."""
    for number in signals:
        if child.returncode is not None:
            return
        child.send_signal(number)
        try:
            await asyncio.wait_for(child.wait(), timeout_s)
        except TimeoutError:
            continue


def open_log(path: Path | None) -> BinaryIO:
    """Opens a log to append to; one that has grown large becomes `.1` and the one before is dropped.

    None is our standard output: a container's runtime keeps, turns over and collects what is written there.
    """
    if path is None:
        return os.fdopen(os.dup(_STDOUT), "wb")
    try:
        if path.exists() and path.stat().st_size > _LOG_MAX_BYTES:
            path.replace(path.with_suffix(path.suffix + ".1"))
        return path.open("ab")
    except OSError as error:
        raise folder_error(error, path) from error


def tail(path: Path, start: int = 0) -> str:
    """The end of what was written to a log since an offset."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL_BYTES))
        return file.read().decode(errors="replace")
