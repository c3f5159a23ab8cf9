"""What a supervisor sees of its processes: whether they answer, what they are given, what they write."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.stack import ports
from finflow.stack.fleets.folder import Plan

HOST: Final = "127.0.0.1"
_LOG_MAX_BYTES: Final = 16 << 20
_FILE_MAX_BYTES: Final = 1 << 20
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


async def look(plan: Plan, port: int) -> int | None:
    """The status of the readiness check; without a path the wanted one if the port takes connections."""
    if plan.ready_path is not None:
        return await ports.http_status(HOST, port, plan.ready_path)
    return plan.ready_status if await ports.takes_connections(HOST, port) else None


def bound_log(path: Path) -> None:
    """Moves a log that has grown large aside and empties it, while the process goes on writing to it.

    The process writes to the file itself and not to us, so that our end is not its end. What it writes
    between the copy and the cut is lost.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size > _LOG_MAX_BYTES:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)


def environment(plan: Plan, passed_on: dict[str, str]) -> dict[str, str]:
    """The variables of a process, but for its port. Raises fleet_environment."""
    base = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if plan.release_folder:
        base["PATH"] = f"{plan.release_folder}/bin:{base.get('PATH', os.defpath)}"
        base["VIRTUAL_ENV"] = plan.release_folder
    secret = read_environment_file(Path(plan.environment_file)) if plan.environment_file else {}
    return {**base, **plan.environment, **passed_on, **secret}


def passed_on(names: tuple[str, ...]) -> dict[str, str]:
    """The variables of these names that we have ourselves. Raises fleet_environment if one is missing."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise FinFlowError("fleet_environment", f"environment_from names {', '.join(missing)}: not set here.")
    return {name: os.environ[name] for name in names}


def read_environment_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines; empty ones and those that begin with # are left out. Raises fleet_environment."""
    try:
        status = path.stat()
        if status.st_mode & 0o077:
            raise FinFlowError(
                "fleet_environment", f"{path} can be read by others than its owner: chmod 600."
            )
        if status.st_size > _FILE_MAX_BYTES:
            raise FinFlowError("fleet_environment", f"{path} is larger than {_FILE_MAX_BYTES} bytes.")
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FinFlowError("fleet_environment", f"{path} cannot be read.") from error
    pairs = [line.partition("=") for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if bad := next((number for number, pair in enumerate(pairs, 1) if not pair[1]), None):
        raise FinFlowError("fleet_environment", f"{path}: assignment {bad} does not look like NAME=VALUE.")
    return {name.strip(): value.strip() for name, _, value in pairs}
