"""Reads of a candidate beside those of two baselines: what the baselines do not agree on is noise.

Answers are compared as JSON values, place by place. A place where two processes of one release differ (times,
request ids, what moved in between) says nothing about the candidate, whose difference there is not counted.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from finflow.kernel.errors import FinFlowError
from finflow.telemetry import outbound

MAX_BODY: Final = 8 << 20
MAX_PLACES: Final = 20
TIMEOUT_S: Final = 10.0
AT_ONCE: Final = 4
# What an answer is read again for: between two reads of one release the world may have moved.
_TRIES: Final = 3


class Read(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recorded GET: its path with the query, and the headers that change its answer."""

    path: str
    headers: dict[str, str] = {}


class Answer(NamedTuple):
    """A status and a body: the JSON value, or the text of what is none."""

    status: int
    body: Any


class ReadDifference(msgspec.Struct, frozen=True):
    """One read that the candidate answers differently, and where."""

    path: str
    places: list[str]
    baseline: Any
    candidate: Any


class ReadsReport(msgspec.Struct, frozen=True):
    """How many reads were compared, how many were noise in part, and which differ."""

    compared: int
    noisy: int
    different: list[ReadDifference]


def places(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two JSON values differ: paths like `items[3].balance`, and both values there."""
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in sorted(one.keys() | other.keys()):
            where = f"{path}.{name}" if path else name
            if name not in one or name not in other:
                found[where] = one.get(name), other.get(name)
            else:
                found |= places(one[name], other[name], where)
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found = {}
        for index, pair in enumerate(zip(one, other, strict=True)):
            found |= places(*pair, f"{path}[{index}]")
        return found
    # Values of two types are never equal, not even 1 and true.
    same = type(one) is type(other) and one == other
    return {} if same else {path or "$": (one, other)}


def differing(candidate: Answer, first: Answer, second: Answer) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """Where the candidate differs from a baseline and the baselines agree; and whether there was noise."""
    if first.status != second.status:
        return {}, True
    if candidate.status != first.status:
        return {"status": (first.status, candidate.status)}, False
    noise = places(first.body, second.body)
    found = places(first.body, candidate.body)
    real = {place: pair for place, pair in found.items() if not _covered(place, noise)}
    return real, bool(noise)


def _covered(place: str, noise: dict[str, Any]) -> bool:
    """Whether a place is noise, or lies within noise, or around it."""
    return any(place == each or place.startswith((f"{each}.", f"{each}[")) for each in noise) or any(
        each.startswith((f"{place}.", f"{place}[")) for each in noise
    )


async def compare_reads(
    candidate: str, first: str, second: str, reads: Sequence[Read], token: str | None = None
) -> ReadsReport:
    """Ask all three and compare. Raises reads_unreachable."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    limit = asyncio.Semaphore(AT_ONCE)
    async with outbound.session(headers=headers, timeout=timeout) as session:

        async def one(read: Read) -> tuple[dict[str, tuple[Any, Any]], bool]:
            async with limit:
                return await _compare(session, (candidate, first, second), read)

        found = await asyncio.gather(*(one(read) for read in reads))
    different = [
        ReadDifference(
            read.path, sorted(real)[:MAX_PLACES],
            {place: real[place][0] for place in sorted(real)[:MAX_PLACES]},
            {place: real[place][1] for place in sorted(real)[:MAX_PLACES]},
        )
        for read, (real, _) in zip(reads, found, strict=True)
        if real
    ]  # fmt: skip
    return ReadsReport(len(reads), sum(noisy for _, noisy in found), different)


async def _compare(
    session: aiohttp.ClientSession, bases: tuple[str, str, str], read: Read
) -> tuple[dict[str, tuple[Any, Any]], bool]:
    real: dict[str, tuple[Any, Any]] = {}
    noisy = False
    for _ in range(_TRIES):
        answers = await asyncio.gather(*(_ask(session, base, read) for base in bases))
        real, noise = differing(*answers)
        noisy = noisy or noise
        if not real:
            break
    return real, noisy


async def _ask(session: aiohttp.ClientSession, base: str, read: Read) -> Answer:
    try:
        async with session.get(base.rstrip("/") + read.path, headers=read.headers) as answer:
            content = await answer.content.read(MAX_BODY)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise FinFlowError("reads_unreachable", f"{base}: {type(error).__name__}") from error
    try:
        return Answer(answer.status, msgspec.json.decode(content))
    except msgspec.DecodeError:
        return Answer(answer.status, content.decode(errors="replace"))


def read_file(path: Path, at_most: int) -> list[Read]:
    """Recorded reads: a JSON object a line, or a bare path a line; a sample spread over the whole file.

    Raises file_unreadable.
    """
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        reads = [
            msgspec.json.decode(line, type=Read) if line.startswith("{") else Read(line.strip())
            for line in lines
        ]
    except OSError as error:
        raise FinFlowError("file_unreadable", f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise FinFlowError("file_unreadable", f"{path}: {error}") from error
    if bad := next((read.path for read in reads if not read.path.startswith("/")), None):
        raise FinFlowError("file_unreadable", f"{path}: {bad[:60]!r} is no path")
    step = max(1, -(-len(reads) // at_most))
    return reads[::step]
