"""How sources ask over HTTP: one deadline, a bounded answer, and the two ways in which it can go wrong."""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import aiohttp

from finflow.kernel.errors import FinFlowError

MAX_BYTES: Final = 32 * 2**20
_SECRET: Final = re.compile(r"(?<=//)[^/@\s]*@|\?.*$")


async def ask(
    session: aiohttp.ClientSession, method: str, url: str, *, timeout_s: float,
    headers: Mapping[str, str] | None = None, form: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:  # fmt: skip
    """Status and body. Raises source_unreachable without an answer in time, source_malformed when it is
    larger than it may be. Whatever in the URL may be a secret is not repeated.
    """
    where = _SECRET.sub("", url)
    try:
        async with (
            asyncio.timeout(timeout_s),
            session.request(method, url, headers=headers, data=form, allow_redirects=False) as answer,
        ):
            body = await _bounded(answer, where)
            return answer.status, body
    except TimeoutError as error:
        raise FinFlowError("source_unreachable", f"{where} did not answer in {timeout_s:g} s.") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FinFlowError("source_unreachable", f"{where}: {type(error).__name__}.") from error


async def _bounded(answer: aiohttp.ClientResponse, where: str) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(2**16):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise FinFlowError("source_malformed", f"{where} answers with more than {MAX_BYTES:,} bytes.")
    return b"".join(parts)
