"""Runs the tools that releases are made with: git and pip, bounded, their failures in words."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from finflow.kernel.errors import FinFlowError
from finflow.telemetry.redaction import redact

TOOL_TIMEOUT_S: Final = 900.0
_WORDS_MAX: Final = 400


def run(
    command: Sequence[str | Path],
    *,
    code: str = "release_failed",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = TOOL_TIMEOUT_S,
) -> bytes:
    """What the tool wrote to its standard output. Raises FinFlowError of this code with its last words."""
    try:
        done = subprocess.run(  # noqa: S603 - a tool of ours, no shell
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise FinFlowError("release_failed", f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise FinFlowError("release_failed", f"{command[0]} took longer than {timeout_s:.0f} s.") from error
    if done.returncode != 0:
        raise FinFlowError(code, _last_words(done.stderr or done.stdout) or f"{command[0]} failed")
    return done.stdout


def _last_words(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ERROR", "error", "fatal"))] or lines
    return redact(telling[-1])[:_WORDS_MAX] if telling else ""
