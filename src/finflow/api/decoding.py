"""From bytes to typed values: bodies and queries, bounded in size, every mistake named with its place."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request

from finflow.kernel.clock import to_micros
from finflow.kernel.errors import FinFlowError

T = TypeVar("T")
HttpRequest = Request[Any, Any, Any]

MIB: Final = 1024 * 1024
BODY_LIMIT: Final = MIB
BATCH_BODY_LIMIT: Final = 32 * MIB
DRAIN_LIMIT: Final = 64 * MIB
MAX_QUERY: Final = 20

_WRONG: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PLACE: Final = re.compile(r"(?s)(.*) - at `(?:\$\.?|key in \$\.?)(.*)`")
_FIELD: Final = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`")
_AMOUNT: Final = re.compile(r"(?:^|\.)(?:amount|overdraft_limit|upper_limit)$")
_ESCAPED_NUL: Final = b"\\u0000"
# Moments beyond these could leave the calendar when they are brought to UTC.
_EARLIEST: Final = datetime(1000, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)


class Body(Generic[T]):
    """Reads JSON bodies of one type: `await Body(NewAccount).read(request)`.

    Raises request_malformed with the place in `param`, request_too_large, media_type_unsupported.
    With `optional` an empty body is an empty object.
    """

    def __init__(self, shape: type[T], limit: int = BODY_LIMIT, optional: bool = False) -> None:
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(shape).decode
        self._limit = limit
        self._optional = optional

    async def read(self, request: HttpRequest) -> T:
        raw = await read_body(request, self._limit)
        if not raw and self._optional:
            raw = b"{}"
        elif media_type_of(request) != b"application/json":
            raise FinFlowError("media_type_unsupported")
        return self.decode(raw)

    def decode(self, raw: bytes) -> T:
        try:
            value = self._decode(raw)
        except _WRONG as error:
            raise malformed(error) from error
        if _ESCAPED_NUL in raw:
            refuse_nul(value)
        return value


class Query(Generic[T]):
    """Reads query strings of one type. Raises request_malformed with the parameter's name in `param`."""

    def __init__(self, shape: type[T]) -> None:
        self._shape = shape

    def read(self, request: HttpRequest) -> T:
        text = request.scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY)
        except ValueError as error:
            raise FinFlowError("request_malformed", "The query string cannot be read.") from error
        given = dict(pairs)
        if len(given) < len(pairs):
            raise FinFlowError("request_malformed", "A query parameter is given twice.")
        try:
            value = msgspec.convert(given, self._shape, strict=False)
        except _WRONG as error:
            raise malformed(error) from error
        if "%00" in text:
            refuse_nul(value)
        return value


def media_type_of(request: HttpRequest) -> bytes:
    """The body's media type without parameters, in lower case; empty if none is given."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """The whole body. Raises request_too_large for what Content-Length says, or as soon as more has come."""
    for name, value in request.scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            await drain(request)
            raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise FinFlowError("request_malformed", "The connection ended inside the body.")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            parts.clear()
            if message.get("more_body", False):
                await drain(request)
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def drain(request: HttpRequest) -> None:
    """Throw away what still comes, up to a bound: a client that is still sending would not see the answer."""
    left = DRAIN_LIMIT
    while left > 0:
        message: Any = await request.receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def too_large(limit: int) -> FinFlowError:
    """The request_too_large error of a route that takes so many bytes."""
    return FinFlowError("request_too_large", f"This route takes bodies of at most {limit} bytes.")


def malformed(error: Exception, where: str = "") -> FinFlowError:
    """The request_malformed error of what msgspec says; `where` stands before the place."""
    if isinstance(error, RecursionError):
        return FinFlowError("request_malformed", "The body is nested too deeply.", where or None)
    if isinstance(error, UnicodeDecodeError):
        return FinFlowError("request_malformed", "The body is not valid UTF-8.", where or None)
    said, param = str(error), ""
    if place := _PLACE.fullmatch(said):
        said, param = place.groups()
    if field := _FIELD.fullmatch(said):
        param = f"{param}.{field[1]}" if param else field[1]
    if _AMOUNT.search(param) and said.endswith(("got `int`", "got `float`")):
        said = 'An amount is a decimal string such as "12.50", never a JSON number'
    return FinFlowError("request_malformed", f"{said}.", ".".join(filter(None, (where, param)))[:200] or None)


def refuse_nul(value: Any, param: str = "") -> None:
    """Raises request_malformed where a text holds the character NUL, which PostgreSQL cannot store."""
    if isinstance(value, str) and "\0" in value:
        raise FinFlowError("request_malformed", "Texts cannot hold the character U+0000.", param or None)
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        for name, item in value.items():
            refuse_nul(name, param)
            refuse_nul(item, f"{param}.{name}" if param else str(name))
    if isinstance(value, list):
        for index, item in enumerate(value):
            refuse_nul(item, f"{param}[{index}]")


def check_moment(moment: datetime | None, param: str) -> None:
    """Raises request_malformed for a moment so far away that UTC's calendar may not have it."""
    if moment is not None and not _EARLIEST <= moment <= _LATEST:
        raise FinFlowError("request_malformed", "Moments lie in the years 1000 to 9998.", param)


def micros(moment: datetime | None, param: str) -> int | None:
    """A moment in microseconds, after `check_moment`."""
    check_moment(moment, param)
    return None if moment is None else to_micros(moment)
