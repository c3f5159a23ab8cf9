"""Lists as answers: a page with its cursor, compressed where that is asked for and worth it."""

import asyncio
import gzip
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from finflow.api.answers import JSON, Answer, Header, encode
from finflow.api.cursors import next_cursor
from finflow.api.decoding import HttpRequest
from finflow.ledger.lists import Page

# Below the first a packet is a packet; above the second a thread compresses, and the loop goes on.
WORTH_IT: Final = 1_400
IN_A_THREAD: Final = 65_536
# Above this a page is sent as it is: compressing it would keep a core busy for one client.
TOO_LARGE: Final = 16 * 1024 * 1024
_LEVEL: Final = 1
_ACCEPTS: Final = re.compile(
    rb"(?:^|,)\s*(gzip|x-gzip|\*)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?(?=,|$)", re.IGNORECASE
)
_VARY: Final = (b"vary", b"accept-encoding")
_GZIP: Final = (b"content-encoding", b"gzip")


async def listed(
    request: HttpRequest,
    query: msgspec.Struct,
    page: "Page[Any]",
    shape: Callable[[list[Any], str | None], object],
) -> Answer:
    """A page of a list in its shape, with the cursor of the next one."""
    return await compressed(request, encode(shape(page.items, next_cursor(request, query, page))))


async def compressed(request: HttpRequest, body: bytes, headers: tuple[Header, ...] = (JSON,)) -> Answer:
    """200 with this body, as gzip if the client takes it and the body is neither tiny nor huge."""
    if not WORTH_IT <= len(body) <= TOO_LARGE or not accepts_gzip(request):
        return Answer(200, body, (*headers, _VARY))
    if len(body) < IN_A_THREAD:
        packed = _compress(body)
    else:
        packed = await asyncio.to_thread(_compress, body)
    return Answer(200, packed, (*headers, _VARY, _GZIP))


def accepts_gzip(request: HttpRequest) -> bool:
    """Whether Accept-Encoding names gzip (or anything), and not with a weight of zero."""
    for name, value in request.scope["headers"]:
        if name == b"accept-encoding":
            weights = {coding.lower(): weight for coding, weight in _ACCEPTS.findall(value)}
            weight = weights.get(b"gzip", weights.get(b"x-gzip", weights.get(b"*", b"0")))
            return not re.fullmatch(rb"0(\.0*)?", weight)
    return False


def _compress(body: bytes) -> bytes:
    # Without the time in it: the same list is the same bytes.
    return gzip.compress(body, _LEVEL, mtime=0)
