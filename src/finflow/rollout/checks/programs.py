"""A program as a check: whatever FinFlow does not know about can still hold a release back.

Exit 0 passes, 1 fails, anything else is an error. Where its standard output begins with `{`, that is JSON
`{"verdict": "...", "words": "...", "numbers": {...}}`, each part optional; of it and the exit the worse
counts, so a program that says `pass` and then fails has failed.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from finflow.rollout.checks.guarded import Guarded, judged
from finflow.rollout.checks_spec import CommandSpec
from finflow.rollout.verdicts import Judgement, Verdict, worst

MAX_OUTPUT_BYTES: Final = 64 << 10
MAX_NUMBERS: Final = 50
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_GRACE_S: Final = 5.0


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program may say of itself."""

    verdict: Verdict = Verdict.PASS
    words: str = ""
    numbers: dict[str, float | int | str] = {}


class Ended(NamedTuple):
    """How a program ended, and the beginning of what it wrote."""

    exit_code: int
    output: bytes
    complaints: bytes


def read(gate: str, ended: Ended) -> Judgement:
    """What a program's end says."""
    by_exit = {0: Verdict.PASS, 1: Verdict.FAIL}.get(ended.exit_code, Verdict.ERROR)
    last_line = (ended.complaints or ended.output).decode(errors="replace").strip().rpartition("\n")[2]
    words = last_line or f"The program exited with {ended.exit_code}."
    numbers: dict[str, float | int | str] = {"exit_code": ended.exit_code}
    if not ended.output.lstrip().startswith(b"{"):
        return judged(gate, by_exit, words, numbers)
    try:
        said = msgspec.json.decode(ended.output, type=Said)
    except msgspec.MsgspecError as error:
        verdict = worst([Judgement(gate, each, {}, "") for each in (by_exit, Verdict.ERROR)])
        return judged(gate, verdict, f"What it printed is no judgement: {error}.", numbers)
    verdict = worst([Judgement(gate, each, {}, "") for each in (by_exit, said.verdict)])
    told = dict(list(said.numbers.items())[:MAX_NUMBERS])
    return judged(gate, verdict, said.words or words, {**told, **numbers})


class CommandCheck(Guarded):
    """Runs the program in a session of its own, so that whatever it starts ends with it."""

    def __init__(
        self, spec: CommandSpec, folder: Path, environ: Mapping[str, str], told: Mapping[str, str]
    ) -> None:
        super().__init__(spec.name, self._run, spec.timeout_s + _GRACE_S)
        self._spec = spec
        self._folder = folder / (spec.folder or ".")
        kept = {name: environ[name] for name in (*_PASSED_ON, *spec.environment) if name in environ}
        self._environment = {**kept, **told}

    async def _run(self) -> Judgement:
        process = await asyncio.create_subprocess_exec(
            *self._spec.command,
            cwd=self._folder,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                return read(self._spec.name, await _finished(process))
        except TimeoutError:
            words = f"{self._spec.command[0]} did not end within {self._spec.timeout_s:g} s."
            return judged(self._spec.name, Verdict.ERROR, words)
        finally:
            # Also after a good end: what it left running in the background is not ours to keep.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _finished(process: asyncio.subprocess.Process) -> Ended:
    assert process.stdout is not None, "both are pipes"
    assert process.stderr is not None, "both are pipes"
    exit_code = asyncio.create_task(process.wait())
    try:
        output, complaints = await asyncio.gather(_head(process.stdout), _head(process.stderr))
        return Ended(await exit_code, output, complaints)
    finally:
        exit_code.cancel()


async def _head(stream: asyncio.StreamReader) -> bytes:
    """The beginning of what comes; the rest is read and forgotten, so that nobody waits on a full pipe."""
    kept = bytearray()
    while piece := await stream.read(65_536):
        kept += piece[: MAX_OUTPUT_BYTES - len(kept)]
    return bytes(kept)
