"""Command checks: a program's exit code and words."""

import asyncio
import contextlib
import os
import signal
from typing import Final

from finflow.verification.model import Failed
from finflow.verification.scene import Scene
from finflow.verification.spec import CommandCheck

_ALWAYS: Final = ("PATH", "HOME", "LANG", "TZ")
_MAX_BYTES: Final = 1 << 20


async def look(check: CommandCheck, scene: Scene) -> str:
    """Run it to its end. Raises Failed. Its whole group is ended when its time is up."""
    environment = {name: scene.environ[name] for name in _ALWAYS if name in scene.environ}
    environment |= {name: scene.secret(name) for name in check.environment}
    try:
        child = await asyncio.create_subprocess_exec(
            *check.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise Failed(f"{check.argv[0]}: {error}") from error
    try:
        output = await _output(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.shield(child.wait())
    return _judge(check, child.returncode, output)


async def _output(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None, "it was asked for"
    data = b""
    while piece := await child.stdout.read(1 << 16):
        data += piece
        if len(data) > _MAX_BYTES:
            raise Failed("the command writes more than 1 MiB")
    await child.wait()
    return data.decode(errors="replace")


def _judge(check: CommandCheck, code: int | None, output: str) -> str:
    last = (output.strip().splitlines() or [""])[-1][:200]
    if code != check.exit_code:
        raise Failed(f"exit code {code}, not {check.exit_code}: {last}")
    if check.stdout_text is not None and check.stdout_text not in output:
        raise Failed(f"its output does not contain {check.stdout_text!r}: {last}")
    return f"exit code {code}"
