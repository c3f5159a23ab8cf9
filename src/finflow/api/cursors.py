"""Opaque cursors: a position in a list, bound to the tenant, the route and the filter it was given for.

Twenty letters of URL-safe base 64: a version, six bytes of a hash over what it is bound to, and the
position in eight. It is no secret and no signature: whoever makes one up can ask for what any first page
shows as well. What it prevents is going on in another list than the one that was begun.
"""

import base64
import binascii
import struct
from hashlib import blake2b
from typing import Final

import msgspec

from finflow.api.decoding import HttpRequest
from finflow.api.identity import principal_of
from finflow.kernel.errors import FinFlowError
from finflow.ledger.lists import END, Page, Span

_FORMAT: Final = struct.Struct(">B6sQ")
_VERSION: Final = 1
_LETTERS: Final = 20
# What may differ between the pages of one list.
_NOT_BOUND: Final = ("cursor", "limit")


def span_of(request: HttpRequest, query: msgspec.Struct, newest: bool = False) -> Span:
    """The part of a list that a query with `cursor` and `limit` asks for.

    Raises cursor_malformed, and cursor_mismatch for a cursor of another list.
    """
    fields = msgspec.structs.asdict(query)
    after = None if fields["cursor"] is None else _position(fields["cursor"], _bound(request, query))
    return Span(after, newest, fields["limit"])


def next_cursor(request: HttpRequest, query: msgspec.Struct, page: "Page[object]") -> str | None:
    """The cursor of the page after this one, or None at the end."""
    if page.next is None:
        return None
    packed = _FORMAT.pack(_VERSION, _bound(request, query), page.next)
    return base64.urlsafe_b64encode(packed).decode()


def _bound(request: HttpRequest, query: msgspec.Struct) -> bytes:
    kept = {k: v for k, v in msgspec.structs.asdict(query).items() if k not in _NOT_BOUND}
    parts = [principal_of(request).tenant_id, request.scope["path"], kept]
    return blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=6).digest()


def _position(cursor: str, bound: bytes) -> int:
    try:
        version, given, position = _FORMAT.unpack(
            base64.b64decode(cursor.encode("ascii"), b"-_", validate=True)
        )
    except (UnicodeEncodeError, binascii.Error, struct.error) as error:
        raise FinFlowError("cursor_malformed", param="cursor") from error
    if version != _VERSION or len(cursor) != _LETTERS or position > END:
        raise FinFlowError("cursor_malformed", param="cursor")
    if given != bound:
        raise FinFlowError("cursor_mismatch", param="cursor")
    return int(position)
